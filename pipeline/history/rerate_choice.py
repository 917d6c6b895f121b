"""Chooses what to rate again, and cuts it into parts that fit into memory (P10).

What shares a card, a pool or a device is rated together, so it is in one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.history.originals import RatedRows
from rating.apply import Compiled
from rating.columnar.key_index import Ints
from rating.usage.records_again import frame_of
from rating.usage.rerate_scope import RerateScope, own_cycle_in

PART_ROWS: Final = 500_000  # rated rows of a part, unless one pool has more


@dataclass(frozen=True)
class Choice:
    """Which rated rows are to be rated again: a filter of rows of schemas.tables.RATED, or None for all.

    Everything that shares a total with them is rated again too.
    """

    wanted: Any | None

    def parts(self, rows: RatedRows, compiled: Compiled, most: int = PART_ROWS) -> Iterator[RerateScope]:
        """Yield the scopes of the parts. Those of one call have no card, pool or device in common in a cycle."""
        asked = _counted(rows, self.wanted)
        if asked.is_empty():
            return
        cycles = frozenset(asked["own_cycle"].to_list())
        pairs = _counted(rows, own_cycle_in(cycles)).group_by("iccid", "subject").agg(pl.col("rows").sum())
        pairs = pairs.sort("iccid", "subject")
        pairs = pairs.with_columns(group=pl.Series(components(pairs["iccid"], pairs["subject"])))
        names = pl.concat([asked["iccid"], asked["subject"]]).unique()
        groups = pairs.filter(pl.col("iccid").is_in(names.implode()) | pl.col("subject").is_in(names.implode()))[
            "group"
        ]
        pairs = pairs.filter(pl.col("group").is_in(groups.unique().implode()))
        sizes = pairs.group_by("group").agg(pl.col("rows").sum()).sort("group")
        sizes = sizes.with_columns(part=pl.Series(_parts(sizes["rows"].to_numpy(), most)))
        for _, part in (
            pairs.join(sizes.select("group", "part"), on="group").sort("part").group_by("part", maintain_order=True)
        ):
            cards = frozenset(part["iccid"].to_list())
            yield RerateScope().named(compiled, cards, frozenset(part["subject"].to_list()), cycles)


def components(left: pl.Series, right: pl.Series) -> Ints:
    """Return a number for each pair of names, int64[n]. Pairs have the same number if names connect them."""
    names = pl.concat([left, right]).unique(maintain_order=True)
    numbers = pl.DataFrame({"name": names, "number": np.arange(len(names))})
    a, b = (
        pl.DataFrame({"name": side}).join(numbers, on="name", how="left", maintain_order="left")["number"].to_numpy()
        for side in (left, right)
    )
    label = np.arange(len(names))
    while True:
        least = np.minimum(label[a], label[b])
        before = label.copy()
        np.minimum.at(label, a, least)
        np.minimum.at(label, b, least)
        if np.array_equal(before, label):
            found: Ints = label[a]
            return found


def _parts(sizes: Sequence[int] | Ints, most: int) -> Ints:
    """Return the part of each group, int64[g]: consecutive groups of at most `most` rows, or one larger group."""
    part, held, found = 0, 0, []
    for size in np.asarray(sizes).tolist():
        if held and held + size > most:
            part, held = part + 1, 0
        held += size
        found.append(part)
    return np.array(found, np.int64)


def _counted(rows: RatedRows, wanted: Any | None) -> pl.DataFrame:
    """Return the number of rows that are wanted, by card, billing entity and own cycle."""
    found: list[pl.DataFrame] = []
    for table in rows.batches(["iccid", "subject", "cycle", "adjusts_cycle"], wanted):
        frame = frame_of(table).select("iccid", "subject", own_cycle=pl.coalesce("adjusts_cycle", "cycle"))
        found.append(frame.group_by("iccid", "subject", "own_cycle").agg(rows=pl.len().cast(pl.Int64)))
        if len(found) > 64:
            found = [_summed(found)]
    return _summed(found)


def _summed(frames: list[pl.DataFrame]) -> pl.DataFrame:
    none = pl.DataFrame(schema={"iccid": pl.String, "subject": pl.String, "own_cycle": pl.String, "rows": pl.Int64})
    return pl.concat([none, *frames]).group_by("iccid", "subject", "own_cycle").agg(pl.col("rows").sum())
