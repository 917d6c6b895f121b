"""Digests of a batch, computed before the fold: of record keys, contents and card numbers.

They depend on the rows alone and need no state. So a driver may compute them in the thread that reads, while the fold
works on the batch before.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.columnar.arrow import has
from rating.columnar.key_index import Ints, Words
from rating.dedupe.seen import content_of, content_texts, digests
from schemas.usage import UsageBatch

NUMBERS = ("iccid", "imsi", "msisdn")  # card numbers; the first that a record carries decides its card (F1)
PLACE = ("plmn", "country", "zone")  # where a record was used; the zone is the one that the feed names
_ODD = np.uint64(0x9E3779B97F4A7C15)
_TABLE_BITS = 16


@dataclass(frozen=True)
class Number:
    """Digests of one card number of each record. `present` says which records carry it; None if all do."""

    high: Words
    low: Words
    present: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Prints:
    """Digests of a batch. Columns have one element per record.

    `key_high` and `key_low` are the halves of the 128-bit digest of the record key, `content` is the digest of the
    content (F4). `numbers` contains the card numbers that at least one record carries. `spot` is the place of use, as a
    row of `spots`: the distinct (PLMN, country, zone named by the feed).
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
        """Compute the digests of a batch."""
        rows = batch.rows
        names = [name for name in NUMBERS if has(rows, name)]
        content = content_texts(rows)
        places = [name for name in PLACE if has(rows, name)]
        # One call of Polars for all columns, because each call has a cost, whatever the size of the batch.
        digests_of, texts = digests(
            rows, {"record_key": batch.feed} | {name: name for name in names}, dict.fromkeys(content + places)
        )
        high, low = digests_of["record_key"]
        numbers = {name: Number(*digests_of[name], _present(rows[name])) for name in names}
        spot, spots = _spots(rows, {name: texts[name] for name in places})
        return cls(high, low, content_of(rows, {name: texts[name] for name in content}), numbers, spot, spots)

    def slice(self, start: int, count: int) -> Prints:
        """Return the digests of `count` rows from `start` on. `spots` stay those of the whole batch."""
        return self.take(builtins.slice(start, start + count))

    def take(self, part: builtins.slice | Ints) -> Prints:
        """Return the digests of some rows. `spots` stay those of the whole batch."""
        numbers = {
            name: Number(number.high[part], number.low[part], None if number.present is None else number.present[part])
            for name, number in self.numbers.items()
        }
        return Prints(self.key_high[part], self.key_low[part], self.content[part], numbers, self.spot[part], self.spots)


def _present(numbers: pl.Series) -> npt.NDArray[np.bool_] | None:
    return numbers.is_not_null().to_numpy() if numbers.null_count() else None


def _spots(rows: pl.DataFrame, digested: dict[str, Words]) -> tuple[Ints, list[tuple[str, str, str]]]:
    """Return the row of each record's place of use, int64[n], and the distinct places of the batch."""
    if not digested:
        return np.zeros(len(rows), np.int64), [("", "", "")]
    whole = np.zeros(len(rows), np.uint64)
    for digest in digested.values():
        whole = whole * _ODD + digest
    sample, spot = _alike(whole)
    shown = [
        [text or "" for text in rows[name][sample].to_list()] if name in digested else [""] * len(sample)
        for name in PLACE
    ]
    return spot, list(zip(*shown, strict=True))


def _alike(digests: Words) -> tuple[Ints, Ints]:
    """Return one row of each distinct digest, and the position of each row's digest among them.

    There are few distinct digests, so most have a slot of their own in a table by their highest bits.
    """
    rows = np.arange(len(digests))
    table = np.empty(1 << _TABLE_BITS, np.int64)
    place = (digests >> np.uint64(64 - _TABLE_BITS)).view(np.int64)
    table[place] = rows
    like = table[place]
    others = np.flatnonzero(digests[like] != digests)
    if len(others):
        _, first, which = np.unique(digests[others], return_index=True, return_inverse=True)
        like[others] = others[first][which]
    leads = like == rows
    return np.flatnonzero(leads), (np.cumsum(leads) - 1)[like]
