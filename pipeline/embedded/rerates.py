"""What a re-rating did, and what a change of the catalogue makes necessary to rate again (P10)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.history.rerate_choice import Choice
from rating.catalogue.spells import FACT_SCHEMA, SPELL_SCHEMA
from rating.engine import Engine
from rating.step import Step
from rating.usage.accepted_usage import days_of_arrival
from rating.usage.records_again import frame_of
from schemas.cards import Catalogue
from schemas.plans import Plan

LARGEST: Final = 20  # differences that are kept
# Facts of a card, beside plan and pool, on which the price of its usage or the size of an allowance depends.
_DECIDING: Final = ("account", "status", "device", "activated_on", "term_months")
_EPOCH: Final = dt.date(1970, 1, 1)
_FIRST_DAY: Final = -700_000  # days before it are beyond the calendar
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
        for currency, nanos in step.usage_charges.items():
            self.differences[currency] = self.differences.get(currency, 0) + nanos
        rows = frame_of(step.rated).with_columns(cycle=pl.coalesce("adjusts_cycle", "cycle"))
        sums = rows.group_by(_BY).agg(
            records=pl.struct("feed", "record_key").n_unique().cast(pl.Int64), charge_nanos=pl.col("charge_nanos").sum()
        )
        both = pl.concat([self.largest, sums.filter(pl.col("charge_nanos") != 0)])
        self.largest = both.sort(pl.col("charge_nanos").abs(), *_BY, descending=[True, *(False for _ in _BY)]).head(
            LARGEST
        )


def facts_of_cards(engine: Engine) -> pl.DataFrame:
    """Return the histories of the facts of cards that decide what usage costs (FACT_SCHEMA)."""
    state = engine.state
    histories = [("plan", state.plan_history), ("pool", state.pool_history)]
    return pl.concat(
        [
            *(history.select(pl.lit(fact).alias("fact"), *SPELL_SCHEMA) for fact, history in histories),
            state.fact_history.filter(pl.col("fact").is_in(_DECIDING)).select(*FACT_SCHEMA),
        ]
    )


def touched_by(plans: Sequence[Plan], before: pl.DataFrame, engine: Engine, change: Catalogue) -> Iterator[Choice]:
    """Yield the choice of what `change` made necessary to rate again, if it says something of the past.

    `plans` and `before` (`facts_of_cards`) are those before the change, and `engine` has applied it. The choice is
    usage of a plan since the day from which a new version counts, and usage of a card since the first day on which it
    has another account, plan or pool than before, or another service. What begins on the day of arrival counts from the
    arrival on, unless the change names that day.
    """
    wanted = []
    known = {plan.id: {version.version for version in plan.versions} for plan in plans}
    for plan in change.plans:
        fresh = [version.effective for version in plan.versions if version.version not in known.get(plan.id, ())]
        if plan.id in known and fresh:
            wanted.append((pc.field("plan_id").cast(pa.string()) == plan.id) & (pc.field("day") >= min(fresh)))
    cards = _changed_cards(before, engine, change.cards)
    for day, iccids in cards.group_by("day", maintain_order=True):
        of_cards = pc.field("iccid").isin(pa.array(iccids["iccid"].to_list(), pa.string()))
        number = day[0]
        since = dt.date.min if number < _FIRST_DAY else _EPOCH + dt.timedelta(days=number)
        wanted.append(of_cards & (pc.field("day") >= since))
    if wanted:
        whole = wanted[0]
        for one in wanted[1:]:
            whole |= one
        yield Choice(whole)


def _changed_cards(before: pl.DataFrame, engine: Engine, change: pl.DataFrame) -> pl.DataFrame:
    """Return the known cards of which a fact differs in the past: columns iccid, day (days since 1970), by day."""
    state, compiled = engine.state, engine.compiled
    upserted = compiled.cards
    if change.is_empty() or upserted is None or not len(upserted.replaced):
        return pl.DataFrame(schema={"iccid": pl.String, "day": pl.Int64})
    asked = upserted.asked.with_columns(card=pl.Series(upserted.rows, dtype=pl.Int64))
    asked = asked.filter(pl.col("card") < upserted.former)
    differing = first_differences(before, facts_of_cards(engine), asked["card"])
    zones = days_of_arrival(compiled, state.clock_us)
    cards = differing["card"].to_numpy()
    today = pl.Series("today", zones[compiled.directory.account[cards]] if len(cards) else [], dtype=pl.Int64)
    names = [name for name in ("from", "plan_from", "pool_from", "pool_until") if name in asked.columns]
    named = asked.select("card", *(pl.col(name).to_physical().cast(pl.Int64).alias(f"{name}_day") for name in names))
    found = differing.with_columns(today).join(named, on="card", how="left")
    on_day = pl.any_horizontal(pl.lit(False), *((pl.col(f"{name}_day") == pl.col("day")) for name in names))
    found = found.filter((pl.col("day") < pl.col("today")) | on_day.fill_null(False))
    iccids = compiled.directory.cards["iccid"].gather(found["card"])
    return found.select(iccids.alias("iccid"), "day").sort("day", "iccid")


def first_differences(before: pl.DataFrame, after: pl.DataFrame, cards: pl.Series) -> pl.DataFrame:
    """Return the first day on which a fact of these cards differs in two histories (FACT_SCHEMA): columns card, day.

    A card without a row of a fact has what its row says on all days, so a first spell from the beginning is no
    difference. Cards without a difference have no row.
    """
    found = []
    for history in (before, after):
        ordered = history.filter(pl.col("card").is_in(cards.implode())).sort("fact", "card", "from_day")
        found.append(ordered.with_columns(number=pl.int_range(pl.len()).over("fact", "card")))
    keys = ["fact", "card", "number"]
    dated = before.select("fact", "card").unique()
    both = found[0].join(found[1], on=keys, how="full", suffix="_after", coalesce=True)
    both = both.join(dated.with_columns(dated=True), on=["fact", "card"], how="left")
    fresh = ~pl.col("dated").fill_null(False) & pl.col("fact").is_in(_DECIDING)
    # The first spell of a history that has only begun says what the card had before.
    begins = fresh & (pl.col("number") == 0)
    same = pl.col("from_day").eq_missing(pl.col("from_day_after")) & pl.col("target").eq_missing(pl.col("target_after"))
    differs = ~same | pl.col("until_day").ne_missing(pl.col("until_day_after"))
    day = (
        pl.when(same)
        .then(pl.min_horizontal("until_day", "until_day_after") + 1)
        .otherwise(pl.min_horizontal("from_day", "from_day_after"))
    )
    return both.filter(differs & ~begins).group_by("card").agg(day=day.min()).sort("card")
