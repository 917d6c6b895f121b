"""Totals by cycle and by day: units by slice, subject and window, which rules compare with thresholds (L7, L8).

A slice defines what is totalled, such as `data/cycle`, `sms.mo/day` or `pool/data/cycle`. Many rules share a slice. A
row is a pair of subject (SIM or pool) and window. The slices of a family (SIMs by cycle, SIMs by day, pools by cycle)
are columns of the same rows, so that a batch looks up each row once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rating.columnar.key_index import Ints, KeyIndex, reserve
from rating.rules.firing.repetition import WINDOW_BITS
from rating.rules.triggers import Counts, Trigger, counted
from schemas.rules import Rule
from schemas.usage import Direction, Service

Family = Literal["sim/cycle", "sim/day", "pool/cycle"]
FAMILIES: Final[tuple[Family, ...]] = ("sim/cycle", "sim/day", "pool/cycle")

BASELINE: Final[dict[str, pl.DataType]] = {
    "iccid": pl.String(),
    "subject_kind": pl.String(),
    "subject": pl.String(),
    "service": pl.String(),
    "direction": pl.String(),
    "country": pl.String(),
    "zone": pl.String(),
    "cycle": pl.String(),
    "day": pl.Date(),
    "quarter": pl.Int64(),
    "plan_id": pl.String(),
    "plan_version": pl.Int32(),
    "rate": pl.String(),
    "units": pl.Int64(),
    "sessions": pl.Int64(),
    "overage": pl.Int64(),
}
"""What the totals of a slice start from where a rule begins to watch in mid-cycle: sums over the table `rated`.

One row a combination of the columns before `units`, over usage and adjustments. A row counts in the cycle that it
belongs to, even if it is billed in a later one. Of the cycles that still take usage every row counts; `day` (local day
of use) and `quarter` (of an hour since 1970 UTC, of used_at) are set for days that windows of 24 hours can still reach
and null for older ones. `units` is billable_quantity less from_test; `sessions` counts data sessions that began: a
session by its first row, a record without session id by itself. Older combinations of no units may be left out.
"""

_SERVICES: Final = tuple(service.name.lower() for service in Service)


def baseline_sql() -> str:
    """Return DuckDB SQL that computes the columns of BASELINE from the table `rated`.

    Its parameters come from `rating.rules.detect.usage.baseline_scope`: `cycles`, a list of labels, and `first_day`.
    """
    return """
        select iccid, subject_kind, subject, service, direction, country, zone, cycle,
            case when day >= $first_day then day end as day,
            case when day >= $first_day then epoch_us(used_at) // 900000000 end as quarter,
            plan_id, plan_version, rate,
            cast(sum(billable_quantity - from_test) as bigint) as units,
            cast(sum(cast(began as bigint)) as bigint) as sessions,
            cast(sum(overage) as bigint) as overage
        from (
            select *, kind = 'usage' and service = 'data' and part = 0 and (session_id is null or row_number() over (
                partition by feed, service, kind, session_id order by journal_partition, journal_offset, part
            ) = 1) as began
            from (select * replace (coalesce(adjusts_cycle, cycle) as cycle) from rated) as rated
            where list_contains($cycles, cycle) and (
                kind <> 'reversal' or not late or because is not null or exists (
                    from rated as original
                    where original.kind = 'usage' and list_contains($cycles, original.cycle)
                        and original.feed = rated.feed and original.record_key = rated.record_key
                        and original.part = rated.part and original.cycle = rated.cycle
                )
            )
        )
        group by all
        having max(day) >= $first_day or sum(billable_quantity - from_test) <> 0 or sum(overage) <> 0
        """


@dataclass(frozen=True)
class Slice:
    """Definition of a total: units of a service and direction (None: all), home-zone units, overage, or data sessions.

    `country` and `zone` restrict it to usage there. With `pooled`, it is a total per pool of usage on the counters that
    its size is for.
    """

    service: Service
    direction: Direction | None
    window: Literal["cycle", "day", "rolling"]
    counts: Counts = "units"
    country: str | None = None
    zone: str | None = None
    pooled: bool = False

    @classmethod
    def of(cls, rule: Rule, trigger: Trigger) -> Slice | None:
        """Return the slice that a rule compares with its threshold; None if the rule uses no running total."""
        counts = counted(rule, trigger)
        if counts is None:
            return None
        assert trigger.service is not None
        pooled = trigger.kind == "pool"
        return cls(
            trigger.service,
            trigger.direction,
            "cycle" if trigger.window == "cycle" else rule.window,
            counts,
            rule.country if trigger.place == "country" else None,
            rule.zone if trigger.place == "zone" else None,
            pooled,
        )

    def of_overage(self) -> Slice:
        """Return the slice of the overage in the units of this one: what rating priced of them."""
        return replace(self, counts="overage")

    @property
    def text(self) -> str:
        """The name of the slice. Different slices have different names."""
        what = "sessions" if self.counts == "sessions" else _SERVICES[self.service]
        if self.direction is not None:
            what += f".{self.direction.name.lower()}"
        place: str = self.counts if self.counts in ("home", "overage") else ""
        if self.country is not None:
            place = f"country={self.country}"
        elif self.zone is not None:
            place = f"zone={self.zone}"
        return "/".join(part for part in ("pool" if self.pooled else "", what, place, self.window) if part)

    @property
    def family(self) -> Family | None:
        """The family whose rows have this slice as a column; None for the rolling 24 hours."""
        if self.window == "rolling":
            return None
        return "pool/cycle" if self.pooled else "sim/cycle" if self.window == "cycle" else "sim/day"


def total_key(subject: Ints, window: Ints) -> Ints:
    """int64[n]: the key that packs subject (card or pool) and window (< 2**20: cycle or local day)."""
    return (subject << WINDOW_BITS) | window


class _Rows:
    """The rows of one family: pairs of subject and window, with a column of units for each slice."""

    def __init__(self) -> None:
        self.index = KeyIndex()
        self.columns: dict[str, Ints] = {}

    def rows(self, keys: Ints) -> Ints:
        rows = self.index.insert(keys.view(np.uint64))
        reserve(self.columns, len(self.index))
        return rows


class Totals:
    """Units by slice, subject and window. A missing row counts as 0."""

    def __init__(self) -> None:
        self._families: dict[Family, _Rows] = {family: _Rows() for family in FAMILIES}
        self._family_of: dict[str, Family] = {}

    @property
    def slices(self) -> set[str]:
        """The names of the slices that have totals."""
        return set(self._family_of)

    def use(self, text: str, family: Family) -> None:
        """Start to total a slice. A new slice starts at 0; an existing one does not change."""
        if text not in self._family_of:
            self._family_of[text] = family
            kept = self._families[family]
            kept.columns[text] = np.zeros(max(1024, len(kept.index)), np.int64)

    def drop(self, text: str) -> None:
        """Delete the totals of a slice."""
        self._families[self._family_of.pop(text)].columns.pop(text)

    def rows(self, family: Family, keys: Ints) -> Ints:
        """int64[n]: the row of each of the distinct keys (total_key). New rows are added, with 0 in every slice."""
        return self._families[family].rows(keys)

    def column(self, text: str) -> Ints:
        """int64[rows of its family], writable: the units of a slice that has totals."""
        kept = self._families[self._family_of[text]]
        return kept.columns[text][: len(kept.index)]

    def keys(self, family: Family) -> Ints:
        """int64[rows]: the key of each row of a family."""
        return self._families[family].index.keys.view(np.int64)

    def window(self, family: Family) -> Ints:
        """int64[rows]: the window of each row of a family."""
        return self.keys(family) & ((1 << WINDOW_BITS) - 1)

    def value(self, text: str, subject: Ints, window: Ints) -> Ints:
        """int64[n]: the units of a slice for each subject and window; 0 without a row or if the slice has no totals."""
        family = self._family_of.get(text)
        if family is None or not len(self.keys(family)):
            return np.zeros(len(subject), np.int64)
        rows = self._families[family].index.find(total_key(subject, window).view(np.uint64))
        return np.where(rows >= 0, self.column(text)[rows], 0)

    def keep(self, family: Family, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the rows of a family whose `mask` (bool[rows]) is false. The others keep their order."""
        kept = self._families[family]
        at = np.flatnonzero(mask)
        if len(at) < len(kept.index):
            kept.columns = {text: column[at] for text, column in kept.columns.items()}
            kept.index = KeyIndex(kept.index.keys[at])

    def to_table(self) -> pa.Table:
        """Return a table of `slice`, `family`, `key` and `units`, sorted by slice and key, without units of 0.

        Each slice begins with a row of key -1, even if it has no units. Equal totals give equal tables.
        """
        texts = sorted(self._family_of)
        counts, keys, units = [], [], []
        for text in texts:
            column, own = self.column(text), self.keys(self._family_of[text])
            at = np.flatnonzero(column)
            at = at[np.argsort(own[at])]
            keys += [np.array([-1], np.int64), own[at]]
            units += [np.zeros(1, np.int64), column[at]]
            counts.append(len(at) + 1)
        code = np.repeat(np.arange(len(texts), dtype=np.int32), counts)
        families = [self._family_of[text] for text in texts]
        return pa.table(
            {
                "slice": pa.DictionaryArray.from_arrays(code, pa.array(texts, pa.string())),
                "family": pa.DictionaryArray.from_arrays(code, pa.array(families, pa.string())),
                "key": np.concatenate([np.zeros(0, np.int64), *keys]),
                "units": np.concatenate([np.zeros(0, np.int64), *units]),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> Totals:
        """Return the totals from a table that `to_table` returned."""
        totals = cls()
        families = table["family"].cast(pa.string())
        for text, start, stop in stretches(table):
            family: Family = families[start].as_py()
            totals.use(text, family)
            rows = totals.rows(family, np.array(table["key"].slice(start + 1, stop - start - 1).to_numpy()))
            totals.column(text)[rows] = table["units"].slice(start + 1, stop - start - 1).to_numpy()
        return totals


def stretches(table: pa.Table) -> list[tuple[str, int, int]]:
    """Return (slice, start row, stop row) for each slice of a table sorted by `slice`; the stop row is exclusive."""
    starts = np.flatnonzero(table["key"].to_numpy() == -1)
    names = table["slice"].cast(pa.string())
    stops = np.append(starts, table.num_rows)[1:]
    return [(names[int(a)].as_py(), int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
