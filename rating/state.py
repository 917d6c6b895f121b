"""The state of the fold: everything that the fold remembers of earlier journal entries.

A snapshot saves time and never changes a result. A state restored from a snapshot and a state folded from the
beginning of the journal give the same bytes from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import polars as pl
import pyarrow as pa

from rating.catalogue.cards import no_spells
from rating.catalogue.vocabulary import Vocabulary
from rating.columnar.counters import Counters
from rating.dedupe.seen import DIGESTS, UNNAMED_DIGESTS, Seen, require_digests
from rating.rules.holds import Holds
from rating.rules.state import RuleState
from rating.usage.sessions import Sessions
from schemas.cards import CARD_SCHEMA, Account, Addon, Catalogue, Pool
from schemas.plans import Plan, ZoneSet
from schemas.rules import Rule

SNAPSHOT_VERSION = 2


class _Facts(msgspec.Struct, forbid_unknown_fields=True):
    """The part of a snapshot that is not a table."""

    snapshot_version: int
    offset: int
    clock_us: int
    generation: int
    vocabulary: dict[str, list[str]]
    accounts: tuple[Account, ...]
    zones: tuple[ZoneSet, ...]
    plans: tuple[Plan, ...]
    pools: tuple[Pool, ...]
    addons: tuple[Addon, ...]
    addon_used: dict[str, int]
    rules: tuple[Rule, ...]
    active_rules: dict[str, int]
    digests: str = UNNAMED_DIGESTS  # of the keys of sessions, and of the sessions of cells


@dataclass
class State:
    """What the fold carries from entry to entry.

    `offset` is the journal offset of the next entry. `clock_us` is the latest arrival time so far, in microseconds
    since 1970 UTC. `generation` is the number of catalogue changes applied. `seen` is not part of a snapshot: the
    driver stores it separately, because it can be far larger than memory.
    """

    catalogue: Catalogue = field(default_factory=Catalogue)
    plan_history: pl.DataFrame = field(default_factory=no_spells)
    pool_history: pl.DataFrame = field(default_factory=no_spells)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    counters: Counters = field(default_factory=Counters)
    sessions: Sessions = field(default_factory=Sessions)
    addon_used: dict[str, int] = field(default_factory=dict)
    rules: RuleState = field(default_factory=RuleState)
    seen: Seen = field(default_factory=Seen)
    offset: int = 0
    clock_us: int = 0
    generation: int = 0

    def snapshot(self) -> tuple[bytes, dict[str, pa.Table]]:
        """Return the facts as JSON and the tables by name.

        The tables are cards, plan_history, pool_history, counters, sessions and those of the rules.
        """
        catalogue = self.catalogue
        facts = _Facts(
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
            "plan_history": self.plan_history.to_arrow(compat_level=pl.CompatLevel.oldest()),
            "pool_history": self.pool_history.to_arrow(compat_level=pl.CompatLevel.oldest()),
            "counters": self.counters.to_table(),
            "sessions": self.sessions.to_table(),
            **self.rules.tables(),
        }
        return msgspec.json.encode(facts), tables

    @classmethod
    def restore(cls, facts_json: bytes, tables: dict[str, pa.Table], seen: Seen) -> State:
        """Return the state that `snapshot` wrote, with the seen keys that the driver stored.

        Raises ValueError if the snapshot has another version, or digests of another algorithm.
        """
        facts = msgspec.json.decode(facts_json, type=_Facts)
        if facts.snapshot_version != SNAPSHOT_VERSION:
            raise ValueError(f"found snapshot version {facts.snapshot_version}; expected {SNAPSHOT_VERSION}")
        require_digests(facts.digests)
        frames = {name: _frame(tables[name]) for name in ("cards", "plan_history", "pool_history")}
        state = cls(
            catalogue=Catalogue(
                accounts=facts.accounts,
                zones=facts.zones,
                plans=facts.plans,
                pools=facts.pools,
                addons=facts.addons,
                rules=facts.rules,
                cards=frames["cards"].select(pl.col(name).cast(dtype) for name, dtype in CARD_SCHEMA.items()),
            ),
            plan_history=frames["plan_history"],
            pool_history=frames["pool_history"],
            vocabulary=Vocabulary(facts.vocabulary),
            counters=Counters.from_table(tables["counters"]),
            sessions=Sessions.from_table(tables["sessions"]),
            addon_used=facts.addon_used,
            rules=RuleState.restore(facts.active_rules, tables),
            seen=seen,
            offset=facts.offset,
            clock_us=facts.clock_us,
            generation=facts.generation,
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


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
