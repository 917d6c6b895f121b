"""The state of the fold: everything that the fold remembers of earlier journal entries.

A snapshot saves time and never changes a result. A state restored from a snapshot and a state folded from the
beginning of the journal give the same bytes from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import polars as pl
import pyarrow as pa

from rating.dedupe.seen import DIGESTS, Seen
from rating.queried_state import HISTORIES, SNAPSHOT_VERSION, QueriedState, SnapshotFacts, queried_state
from rating.rules.holds import Holds
from rating.rules.state import RuleState
from rating.usage.sessions import Sessions


@dataclass
class State(QueriedState):
    """What the fold carries from entry to entry: what questions need, sessions, rules and seen keys.

    `seen` is not part of a snapshot: the driver stores it separately, because it can be far larger than memory.
    """

    rules: RuleState = field(default_factory=RuleState)
    sessions: Sessions = field(default_factory=Sessions)
    seen: Seen = field(default_factory=Seen)

    def snapshot(self) -> tuple[bytes, dict[str, pa.Table]]:
        """Return the facts as JSON and the tables by name.

        The tables are those of STEADY, counters, further_charges, sessions, closed_cycles and those of the rules.
        """
        catalogue = self.catalogue
        facts = SnapshotFacts(
            snapshot_version=SNAPSHOT_VERSION,
            offset=self.offset,
            clock_us=self.clock_us,
            generation=self.generation,
            vocabulary=self.vocabulary.to_dict(),
            accounts=catalogue.accounts,
            zones=catalogue.zones,
            plans=catalogue.plans,
            pools=catalogue.pools,
            addons=catalogue.addons,
            addon_used=self.addon_used,
            rules=catalogue.rules,
            active_rules=self.rules.active,
            digests=DIGESTS,
        )
        tables = {
            "cards": catalogue.cards.to_arrow(compat_level=pl.CompatLevel.oldest()),
            **{name: getattr(self, name).to_arrow(compat_level=pl.CompatLevel.oldest()) for name in HISTORIES},
            "counters": self.counters.to_table(),
            "further_charges": self.counters.further_table(),
            "sessions": self.sessions.to_table(),
            "closed_cycles": self.closed.to_table(),
            **self.rules.tables(),
        }
        return msgspec.json.encode(facts), tables

    @classmethod
    def restore(cls, facts_json: bytes, tables: dict[str, pa.Table], seen: Seen) -> State:
        """Return the state that `snapshot` wrote, with the seen keys that the driver stored.

        Raises ValueError if the snapshot has another version, or digests of another algorithm.
        """
        known = queried_state(facts_json, tables)
        state = cls(
            catalogue=known.catalogue,
            plan_history=known.plan_history,
            pool_history=known.pool_history,
            fact_history=known.fact_history,
            tenures=known.tenures,
            vocabulary=known.vocabulary,
            counters=known.counters,
            addon_used=known.addon_used,
            closed=known.closed,
            offset=known.offset,
            clock_us=known.clock_us,
            generation=known.generation,
            rules=RuleState.restore(known.rules.active, tables),
            sessions=Sessions.from_table(tables["sessions"]),
            seen=seen,
        )
        if "rule_holds" not in tables:
            state.rules.holds = _implied_holds(state)
        return state


def _implied_holds(state: State) -> Holds:
    """Return the holds of a snapshot that was written before there were holds."""
    cards = state.catalogue.cards.select("status", "status_reason").with_row_index("row")
    suspended = cards.filter(pl.col("status") == "suspended").select("row", "status_reason")
    rules = {state.vocabulary.rules.rows[rule.id]: rule for rule in state.catalogue.rules}
    return Holds.of_former(state.rules.memory, rules, dict(suspended.iter_rows()))
