"""Prints of a batch: what acceptance needs that follows from the rows alone.

Digests of keys, contents and card numbers, and the distinct places of use. They take no state, so a driver may have
them made in the thread that reads, while the fold works on the batch before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.dedupe import content_digest, digest
from rating.groups import distinct
from rating.index import Ints, Words
from schemas.usage import UsageBatch

NUMBERS = ("iccid", "imsi", "msisdn")  # of a card, in the order in which they decide whose a record is (F1)


@dataclass(frozen=True)
class Number:
    """Digests of one card number of each record; `present` says which records carry it, None: all of them."""

    high: Words
    low: Words
    present: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Prints:
    """Columns of one length, the batch's.

    `key_high`, `key_low` and `content` are digests (F4); `numbers` the card numbers that some record carries. `spot` is
    the place of use as a row of `spots`, the distinct (PLMN, country, zone the feed names).
    """

    key_high: Words
    key_low: Words
    content: Words
    numbers: dict[str, Number]
    spot: Ints
    spots: list[tuple[str, str, str]]

    def __len__(self) -> int:
        return len(self.key_low)

    @classmethod
    def of(cls, batch: UsageBatch) -> Prints:
        """The prints of a batch."""
        rows = batch.rows
        high, low = digest(batch.feed, rows["record_key"])
        numbers = {
            name: _number(name, rows[name])
            for name in NUMBERS
            if name in rows.columns and rows[name].null_count() < len(rows)
        }
        spot, spots = _spots(rows)
        return cls(high, low, content_digest(rows), numbers, spot, spots)

    def slice(self, start: int, count: int) -> Prints:
        """The prints of `count` rows from `start` on; `spots` stay those of the batch."""
        part = slice(start, start + count)
        numbers = {
            name: Number(number.high[part], number.low[part], None if number.present is None else number.present[part])
            for name, number in self.numbers.items()
        }
        return Prints(self.key_high[part], self.key_low[part], self.content[part], numbers, self.spot[part], self.spots)


def _number(name: str, numbers: pl.Series) -> Number:
    present = numbers.is_not_null().to_numpy() if numbers.null_count() else None
    return Number(*digest(name, numbers.fill_null("")), present)


def _spots(rows: pl.DataFrame) -> tuple[Ints, list[tuple[str, str, str]]]:
    """The distinct places of a batch, and which one each record was used in."""
    names = [name for name in ("plmn", "country", "zone") if name in rows.columns]
    if not names:
        return np.zeros(len(rows), np.int64), [("", "", "")]
    code = np.zeros(len(rows), np.int64)
    for name in names:
        physical = rows[name].cast(pl.Categorical).to_physical().cast(pl.Int64).fill_null(-1).to_numpy()
        ranks = distinct(physical)
        code = code * len(ranks[0]) + ranks[1]
    present, spot = distinct(code)
    sample = np.zeros(len(present), np.int64)
    sample[spot] = np.arange(len(spot))
    shown = rows[sample].select(
        (pl.col(name).fill_null("") if name in names else pl.lit("")).alias(name)
        for name in ("plmn", "country", "zone")
    )
    return spot, shown.rows()
