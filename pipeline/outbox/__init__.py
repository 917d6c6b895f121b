"""The outbox: how actions leave, at least once, to files, webhooks and mail (domain L10; docs/actions.md)."""

from pipeline.outbox.deliver import Deliverer, Tally
from pipeline.outbox.store import Delivery, Store

__all__ = ["Deliverer", "Delivery", "Store", "Tally"]
