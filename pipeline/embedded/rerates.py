"""What a re-rating did, and what a change of the catalogue makes necessary to rate again (P10)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.history.rerate_choice import Choice
from rating.step import Step
from rating.usage.records_again import frame_of
from schemas.cards import Catalogue

LARGEST: Final = 20  # differences that are kept
_BY: Final = ("subject_kind", "subject", "cycle", "currency")


@dataclass
class Rerated:
    """The outcome of a re-rating: how much was rated again, and what it changed.

    `differences` is the sum of the adjustments in nanos by currency. `largest` has the largest sums by billing entity
    and the cycle that they belong to: columns subject_kind, subject, cycle, currency, records, charge_nanos.
    """

    records: int = 0
    subjects: int = 0
    adjustments: int = 0  # rows
    differences: dict[str, int] = field(default_factory=dict)
    largest: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(
            schema=dict.fromkeys(_BY, pl.String) | {"records": pl.Int64, "charge_nanos": pl.Int64}
        )
    )

    def add(self, step: Step) -> None:
        """Add the outcome of a part. Subjects are in one part only."""
        self.records += step.rerated_records
        self.subjects += step.rerated_subjects
        self.adjustments += step.rated.num_rows
        for currency, nanos in step.charges.items():
            self.differences[currency] = self.differences.get(currency, 0) + nanos
        rows = frame_of(step.rated).with_columns(cycle=pl.coalesce("adjusts_cycle", "cycle"))
        sums = rows.group_by(_BY).agg(
            records=pl.struct("feed", "record_key").n_unique().cast(pl.Int64), charge_nanos=pl.col("charge_nanos").sum()
        )
        both = pl.concat([self.largest, sums.filter(pl.col("charge_nanos") != 0)])
        self.largest = both.sort(pl.col("charge_nanos").abs(), *_BY, descending=[True, *(False for _ in _BY)]).head(
            LARGEST
        )


def touched_by(catalogue: Catalogue, change: Catalogue) -> Iterator[Choice]:
    """Yield the choice of what `change` makes necessary to rate again, if it says something of the past.

    That is usage of a plan since the day from which a new version counts, and usage of a card since the day from which
    it has another plan, or is in another pool. A change without such a day counts from its arrival on.
    """
    wanted = []
    known = {plan.id: {version.version for version in plan.versions} for plan in catalogue.plans}
    for plan in change.plans:
        fresh = [version.effective for version in plan.versions if version.version not in known.get(plan.id, ())]
        if plan.id in known and fresh:
            wanted.append((pc.field("plan_id").cast(pa.string()) == plan.id) & (pc.field("day") >= min(fresh)))
    cards = _changed_cards(catalogue.cards, change.cards)
    for day, iccids in cards.group_by("day", maintain_order=True):
        assert isinstance(day[0], dt.date)
        of_cards = pc.field("iccid").isin(pa.array(iccids["iccid"].to_list(), pa.string()))
        wanted.append(of_cards & (pc.field("day") >= day[0]))
    if wanted:
        whole = wanted[0]
        for one in wanted[1:]:
            whole |= one
        yield Choice(whole)


def _changed_cards(before: pl.DataFrame, change: pl.DataFrame) -> pl.DataFrame:
    """Return the known cards whose plan or pool changes from some day on: columns iccid, day (Date), by day."""
    names = ("plan", "plan_from", "pool", "pool_from", "pool_until")
    both = change.join(before.select("iccid", *(pl.col(name).alias(f"old_{name}") for name in names)), on="iccid")
    days: list[pl.Expr] = []
    for name, ends in (("plan", ("plan_from",)), ("pool", ("pool_from", "pool_until"))):
        differs = pl.any_horizontal(pl.col(one).ne_missing(pl.col(f"old_{one}")) for one in (name, *ends))
        since = [pl.min_horizontal(end, f"old_{end}") if end == "pool_until" else pl.col(end) for end in ends]
        days.extend(pl.when(differs & pl.col(name).is_not_null()).then(day) for day in since)
    rows = both.select("iccid", day=pl.min_horizontal(*days))
    return rows.filter(pl.col("day").is_not_null()).sort("day", "iccid")
