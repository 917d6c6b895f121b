"""The part of the state that questions are answered from: catalogue, counters, closed cycles, active rules and clock.

It is a module of its own, because a command that asks a question should load nothing that only the fold needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa

import schemas.arrow  # noqa: F401  # before any array: pandas stays out
from rating.catalogue.spells import no_facts, no_spells, no_tenures
from rating.catalogue.vocabulary import Vocabulary
from rating.closing.closed_cycles import ClosedCycles
from rating.columnar.counters import Counters
from rating.dedupe.seen import UNNAMED_DIGESTS, require_digests
from rating.rules.holds import Holds
from schemas.cards import CARD_SCHEMA, Account, Addon, Catalogue, Pool
from schemas.plans import Plan, ZoneSet
from schemas.rules import Rule

SNAPSHOT_VERSION: Final = 2

# Tables of a snapshot about cards. They change only with the catalogue. The last two are missing in a snapshot of a
# version that had no dated facts but plans and pools: each card then has what its row says on all days.
HISTORIES: Final = ("plan_history", "pool_history", "fact_history", "tenures")
STEADY: Final = ("cards", *HISTORIES)
QUERIED_TABLES: Final = (*STEADY, "counters", "further_charges", "closed_cycles", "rule_holds")  # of a snapshot


class SnapshotFacts(msgspec.Struct, forbid_unknown_fields=True):
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
class ActiveRules:
    """What questions need of the state of the rules.

    `active` maps the id of each active rule to the time of its activation, in microseconds since 1970 UTC. `holds` say
    why SIMs are suspended.
    """

    active: dict[str, int] = field(default_factory=dict)
    holds: Holds = field(default_factory=Holds)


@dataclass
class QueriedState:
    """The state as far as questions need it.

    `offset` is the journal offset of the next entry. `clock_us` is the latest arrival time so far, in microseconds
    since 1970 UTC. `generation` is the number of catalogue changes applied.
    """

    catalogue: Catalogue = field(default_factory=Catalogue)
    plan_history: pl.DataFrame = field(default_factory=no_spells)
    pool_history: pl.DataFrame = field(default_factory=no_spells)
    fact_history: pl.DataFrame = field(default_factory=no_facts)
    tenures: pl.DataFrame = field(default_factory=no_tenures)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    counters: Counters = field(default_factory=Counters)
    addon_used: dict[str, int] = field(default_factory=dict)
    rules: ActiveRules = field(default_factory=ActiveRules)
    closed: ClosedCycles = field(default_factory=ClosedCycles)
    offset: int = 0
    clock_us: int = 0
    generation: int = 0


def queried_state(facts_json: bytes, tables: Mapping[str, pa.Table]) -> QueriedState:
    """Return what questions need of a snapshot (rating.state.State.snapshot), of which `tables` has QUERIED_TABLES.

    A snapshot of an earlier version may lack some of them.

    Raises ValueError if the snapshot has another version, or digests of another algorithm.
    """
    facts = msgspec.json.decode(facts_json, type=SnapshotFacts)
    if facts.snapshot_version != SNAPSHOT_VERSION:
        raise ValueError(f"found snapshot version {facts.snapshot_version}; expected {SNAPSHOT_VERSION}")
    require_digests(facts.digests)
    frames = {name: _frame(tables[name]) for name in STEADY if name in tables}
    return QueriedState(
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
        fact_history=frames.get("fact_history", no_facts()),
        tenures=frames.get("tenures", no_tenures()),
        vocabulary=Vocabulary(facts.vocabulary),
        counters=Counters.from_table(tables["counters"], tables.get("further_charges")),
        addon_used=facts.addon_used,
        # A snapshot of a version without holds shows none until the next checkpoint is written.
        rules=ActiveRules(
            facts.active_rules, Holds.from_table(tables["rule_holds"]) if "rule_holds" in tables else Holds()
        ),
        closed=ClosedCycles.from_table(tables.get("closed_cycles")),
        offset=facts.offset,
        clock_us=facts.clock_us,
        generation=facts.generation,
    )


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
