"""All scenarios: fleets of their own in one stretch of time, so that one run of a driver has all of them."""

from __future__ import annotations

from typing import Final

from tests.scenarios import feed_scenarios as feeds
from tests.scenarios import rule_scenarios as rules
from tests.scenarios import usage_scenarios as usage
from tests.scenarios.feed_scenarios import NUMBERS, TOTALS
from tests.scenarios.stories import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    usage.tiers(), usage.repeats(), usage.refused(), usage.corrections(), usage.sessions(), usage.addons(),
    usage.cycles(), usage.zones(), rules.pools(), rules.days(), rules.suspension(), rules.started_late(), rules.tags(),
    rules.network(), rules.plan_change(), feeds.spread(), feeds.single_records(), feeds.numbers(), feeds.documents(),
)  # fmt: skip
READY_FEEDS: Final = ("plain", "cellhire", "3gpp-pgw-cdr", "emnify")
OWN_FEEDS: Final = {"numbers": NUMBERS, "totals": TOTALS}
