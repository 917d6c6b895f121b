"""Step: the results of one journal entry."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from rating.rules.firing.tables import Outcome
from rating.units.money import NANOS
from schemas.tables import ACTIONS, CHARGES, FIRINGS, GAPS, RATED, RESULTS
from schemas.usage import REJECT_SCHEMA

# Empty tables, each made once. Making one takes longer than some stages take for a small batch.
_NO_RATED: Final = RATED.empty_table()
_NO_GAPS: Final = GAPS.empty_table()
_NO_RESULTS: Final = RESULTS.empty_table()
_NO_CHARGES: Final = CHARGES.empty_table()
_NO_FIRINGS: Final = FIRINGS.empty_table()
_NO_ACTIONS: Final = ACTIONS.empty_table()


@dataclass(frozen=True)
class Step:
    """The results of one journal entry.

    `rejects` has the columns of REJECT_SCHEMA. The other tables have the columns of the table of the same name in
    schemas.tables. All rows are in journal order. `outcomes` are the results of the rules; `firings` and `actions` are
    the rows of all outcomes. `firings`, `actions` and `usage_charges` are computed at first use.

    records = rated records + duplicates + rejects.
    """

    records: int = 0
    rated_records: int = 0
    duplicates: int = 0
    rated: pa.Table = field(default_factory=lambda: _NO_RATED)
    rejects: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECT_SCHEMA))
    gaps: pa.Table = field(default_factory=lambda: _NO_GAPS)
    outcomes: tuple[Outcome, ...] = ()  # results of the rules
    results: pa.Table = field(default_factory=lambda: _NO_RESULTS)
    charges: pa.Table = field(default_factory=lambda: _NO_CHARGES)  # of the cycles that the entry closed

    @cached_property
    def usage_charges(self) -> dict[str, int]:
        """Sum of the charges of all rated rows in nanos, by currency, sorted by currency."""
        return charges_of(self.rated)

    @cached_property
    def firings(self) -> pa.Table:
        """Firings of all outcomes, as rows of schemas.tables.FIRINGS."""
        return pa.concat_tables([_NO_FIRINGS, *(outcome.firings for outcome in self.outcomes if len(outcome))])

    @cached_property
    def actions(self) -> pa.Table:
        """Actions of all outcomes, as rows of schemas.tables.ACTIONS."""
        return pa.concat_tables([_NO_ACTIONS, *(outcome.actions for outcome in self.outcomes if len(outcome))])


def join(steps: list[Step]) -> Step:
    """Join the steps of consecutive slices of a batch into one."""
    if len(steps) == 1:
        return steps[0]
    return Step(
        records=sum(step.records for step in steps),
        rated_records=sum(step.rated_records for step in steps),
        duplicates=sum(step.duplicates for step in steps),
        rated=pa.concat_tables([step.rated for step in steps]),
        rejects=pl.concat([step.rejects for step in steps]),
        gaps=pa.concat_tables([step.gaps for step in steps]),
        outcomes=tuple(outcome for step in steps for outcome in step.outcomes),
        results=pa.concat_tables([step.results for step in steps]),
        charges=pa.concat_tables([step.charges for step in steps]),
    )


def charges_of(rated: pa.Table) -> dict[str, int]:
    """Return the sum of the charges of rated rows in nanos, by currency, sorted by currency."""
    totals: dict[str, int] = {}
    for chunk in rated.select(["currency", "charge_nanos"]).to_batches():
        code = chunk.column("currency").indices.to_numpy(zero_copy_only=False)
        nanos = chunk.column("charge_nanos").to_numpy()
        for number, currency in enumerate(chunk.column("currency").dictionary.to_pylist()):
            of_currency = code == number
            if of_currency.any():
                # Sums of large amounts do not fit 64 bits, so whole units and nanos are added apart.
                units, rest = np.divmod(nanos[of_currency], NANOS)
                totals[currency] = totals.get(currency, 0) + int(units.sum()) * NANOS + int(rest.sum())
    return dict(sorted(totals.items()))
