"""The active rules, compiled from the state. The evaluation of an entry reads them and never changes them."""

from __future__ import annotations

from rating.apply import Compiled
from rating.rules.active_rule import Watch
from rating.rules.holds import RELEASED
from rating.rules.quota import Quota
from rating.rules.select.filters import Filters
from rating.rules.thresholds import Limits
from rating.rules.triggers import TRIGGERS
from rating.state import State


class RuleSet:
    """The active rules in order of their number, with their filters, limits and the catalogue that they use.

    `resting` are inactive rules that still hold SIMs: they fire no more, but their holds end as they would have ended.

    `zones` are the zone names of all plans; `Traffic.zone` contains indices into this list. A new RuleSet is made
    whenever the catalogue changes or a rule is activated or deactivated.
    """

    def __init__(self, state: State, compiled: Compiled, zones: list[str], former: RuleSet | None = None) -> None:
        """Compile the active rules. `former` is the rule set before a change; its unchanged parts are used again."""
        names = state.vocabulary.rules
        for rule in state.catalogue.rules:
            names.row(rule.id)
        active = sorted((names.rows[rule.id], rule) for rule in state.catalogue.rules if rule.id in state.rules.active)
        self.watches = tuple(
            Watch(row, place, rule, TRIGGERS[rule.trigger], state.rules.active[rule.id])
            for place, (row, rule) in enumerate(active)
        )
        self.resting = _resting(state, names.rows, len(self.watches))
        self.by_row = {watch.row: watch for watch in (*self.watches, *self.resting)}
        self.catalogue = state.catalogue
        self.vocabulary = state.vocabulary
        self.book, self.directory = compiled.book, compiled.directory
        self.pools, self.addons = compiled.pools, compiled.addons
        self.zones = zones
        rules = [watch.rule for watch in self.watches]
        self.filters: Filters = Filters(
            rules, state.catalogue, compiled.book, compiled.directory, former.filters if former is not None else None
        )
        self.quota = Quota(compiled.book, compiled.directory, compiled.pools, compiled.addons)
        self.limits = Limits([*rules, *(watch.rule for watch in self.resting)])


def _resting(state: State, rows: dict[str, int], first: int) -> tuple[Watch, ...]:
    """Return the inactive rules that still hold SIMs until a window ends. `first` is the index of the first of them."""
    memory, holds = state.rules.memory, state.rules.holds
    if not len(memory) and not len(holds):
        return ()
    lasting = (holds["on"] == 1) & (holds["until"] != RELEASED)
    holding = {*memory.rule[memory["held"] == 1].tolist(), *holds.cause[lasting].tolist()}
    resting = sorted(
        (rows[rule.id], rule)
        for rule in state.catalogue.rules
        if rows[rule.id] in holding and rule.id not in state.rules.active
    )
    return tuple(
        Watch(row, place, rule, TRIGGERS[rule.trigger], state.clock_us)
        for place, (row, rule) in enumerate(resting, first)
    )
