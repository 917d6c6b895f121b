"""The results of folding consecutive journal messages, as tables in memory.

pipeline.streaming.rate.output_messages turns them into Kafka messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.journal.messages import Fence
from schemas.tables import TABLES

# Changes of a card's status or status reason; `at` is in microseconds since 1970 UTC (C9).
STATUSES: Final = pa.schema(
    [
        ("iccid", pa.string()),
        ("account", pa.string()),
        ("status", pa.string()),
        ("status_reason", pa.string()),
        ("from_status", pa.string()),
        ("from_reason", pa.string()),
        ("at", pa.int64()),
        ("journal_partition", pa.int32()),
        ("journal_offset", pa.int64()),
    ]
)
SCHEMAS: Final = {**TABLES, "statuses": STATUSES}
# Most tables of most outputs are empty, and making an empty table takes as long as writing many rows.
EMPTY: Final = {name: schema.empty_table() for name, schema in SCHEMAS.items()}


class Ruled(Protocol):
    """The results of rules for an entry (rating.rules.firing.tables.Outcome).

    The tables may be built on first access.
    """

    def __len__(self) -> int:
        """Return the number of firings."""

    @property
    def actions_count(self) -> int:
        """Number of actions."""

    @property
    def firings(self) -> pa.Table:
        """Rows of schemas.tables.FIRINGS."""

    @property
    def actions(self) -> pa.Table:
        """Rows of schemas.tables.ACTIONS."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """The counts of one journal message.

    `journal_offset` is the offset of the message, `next_offset` the offset of the fold after it. `records` counts rated
    records, duplicates and rejected records. `rejected` includes records that mediation rejected. The rejected rows of
    consecutive parts are adjacent and in the order of the parts.
    """

    journal_offset: int
    next_offset: int
    fence: Fence | None
    records: int
    rated: int
    duplicates: int
    rejected: int
    arrived_us: int


@dataclass(frozen=True)
class Counts:
    """Numbers of records, firings and actions; `rejected` by reason."""

    records: int
    rated: int
    duplicates: int
    rejected: dict[str, int]
    firings: int
    actions: int


@dataclass(frozen=True)
class _Tables:
    """Firings and actions that are already tables."""

    firings: pa.Table
    actions: pa.Table

    def __len__(self) -> int:
        return len(self.firings)

    @property
    def actions_count(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Output:
    """The results of consecutive messages of one journal partition, in order.

    `first_offset` is the offset of the fold before the first message.
    """

    partition: int
    first_offset: int
    parts: tuple[Part, ...]
    tables: Mapping[str, pa.Table]  # all tables except firings and actions
    outcomes: tuple[Ruled, ...] = ()

    @classmethod
    def joined(cls, outputs: Sequence[Output]) -> Output:
        """Concatenate consecutive outputs."""
        if len(outputs) == 1:
            return outputs[0]
        return cls(
            outputs[0].partition,
            outputs[0].first_offset,
            tuple(part for one in outputs for part in one.parts),
            {name: stacked(name, [one.tables[name] for one in outputs]) for name in outputs[0].tables},
            tuple(outcome for one in outputs for outcome in one.outcomes),
        )

    @property
    def first_journal_offset(self) -> int:
        """The journal offset of the first message covered."""
        return self.parts[0].journal_offset

    @property
    def journal_offset(self) -> int:
        """The journal offset of the last message covered."""
        return self.parts[-1].journal_offset

    @property
    def next_offset(self) -> int:
        """The offset of the fold after the last message."""
        return self.parts[-1].next_offset

    @property
    def arrived_us(self) -> int:
        """The latest arrival time, in microseconds since 1970 UTC."""
        return max(part.arrived_us for part in self.parts)

    @property
    def fence(self) -> Fence | None:
        """The fence of the last message; None if that message has none."""
        return self.parts[-1].fence

    @property
    def rated(self) -> pa.Table:
        """Rows of schemas.tables.RATED."""
        return self.tables["rated"]

    @property
    def gaps(self) -> pa.Table:
        """Rows of schemas.tables.GAPS."""
        return self.tables["gaps"]

    @property
    def results(self) -> pa.Table:
        """Rows of schemas.tables.RESULTS."""
        return self.tables["results"]

    @property
    def charges(self) -> pa.Table:
        """Rows of schemas.tables.CHARGES."""
        return self.tables["charges"]

    @property
    def rejected(self) -> pa.Table:
        """Rows of schemas.tables.REJECTED.

        Ids and raw bytes of records that the fold rejected are null until filled in.
        """
        return self.tables["rejected"]

    @property
    def statuses(self) -> pa.Table:
        """Rows of STATUSES."""
        return self.tables["statuses"]

    @cached_property
    def firings(self) -> pa.Table:
        """Rows of schemas.tables.FIRINGS."""
        return stacked("firings", [outcome.firings for outcome in self.outcomes])

    @cached_property
    def actions(self) -> pa.Table:
        """Rows of schemas.tables.ACTIONS."""
        return stacked("actions", [outcome.actions for outcome in self.outcomes])

    @cached_property
    def counts(self) -> Counts:
        """Numbers of records, firings and actions of the output."""
        refused = self.rejected
        reasons = pc.value_counts(refused["reason"].cast(pa.string())).to_pylist() if refused.num_rows else []
        return Counts(
            sum(part.records for part in self.parts),
            sum(part.rated for part in self.parts),
            sum(part.duplicates for part in self.parts),
            {one["values"]: one["counts"] for one in sorted(reasons, key=lambda one: str(one["values"]))},
            sum(len(one) for one in self.outcomes),
            sum(one.actions_count for one in self.outcomes),
        )

    def all_tables(self) -> dict[str, pa.Table]:
        """Return every table by name, including `statuses`."""
        return {name: getattr(self, name) for name in SCHEMAS}

    def after(self, journal_offset: int) -> Output | None:
        """Return the rows and counts of messages after `journal_offset` only; None if there are none."""
        if journal_offset < self.first_journal_offset:
            return self
        left = tuple(part for part in self.parts if part.journal_offset > journal_offset)
        if not left:
            return None
        gone = self.parts[: -len(left)]
        since = gone[-1].next_offset
        tables = {
            name: table.slice(sum(part.rejected for part in gone))
            if name == "rejected"
            else table.filter(pc.greater_equal(table["journal_offset"], since))
            for name, table in self.all_tables().items()
        }
        return assembled(self.partition, since, left, tables)


def stacked(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables that all have the schema `name`."""
    filled = [table for table in tables if table.num_rows]
    if not filled:
        return EMPTY[name]
    return filled[0] if len(filled) == 1 else pa.concat_tables(filled)


def assembled(partition: int, first_offset: int, parts: tuple[Part, ...], tables: dict[str, pa.Table]) -> Output:
    """Build an output from tables that include firings and actions. Removes those two from `tables`."""
    firings, actions = tables.pop("firings"), tables.pop("actions")
    return Output(partition, first_offset, parts, tables, (_Tables(firings, actions),) if len(firings) else ())
