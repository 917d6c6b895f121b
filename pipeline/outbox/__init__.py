"""The outbox: at-least-once delivery of actions to files, webhooks and e-mail (domain L10; docs/actions.md)."""

from pipeline.outbox.deliver import Deliverer, Tally
from pipeline.outbox.store import Delivery, Store

__all__ = ["Deliverer", "Delivery", "Store", "Tally"]
