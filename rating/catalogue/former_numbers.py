"""Numbers that changed hands: the card that had an IMSI or MSISDN on the day of use (F1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from rating.catalogue.spells import BEGINNING, END
from rating.columnar.key_index import Ints, KeyIndex, Words
from rating.dedupe.seen import digest


class FormerNumbers:
    """The cards that have or had the numbers in a history, by number and day."""

    def __init__(self, name: str, history: pl.DataFrame, numbers: pl.Series) -> None:
        """`history` (SPELL_SCHEMA) is that of the number `name` of all cards; `numbers` has the latest ones by card."""
        history = history.filter(pl.col("target").is_not_null())
        texts = history["target"].unique(maintain_order=True)
        holders = pl.DataFrame({"target": numbers}).with_row_index("card").cast({"card": pl.Int64})
        always = holders.filter(pl.col("target").is_in(texts.implode())).join(history, on="card", how="anti")
        spells = pl.concat(
            [
                history.select("target", "card", "from_day", "until_day"),
                always.select("target", "card", from_day=pl.lit(BEGINNING, pl.Int64), until_day=pl.lit(END, pl.Int64)),
            ]
        )
        spells = spells.join(texts.to_frame("target").with_row_index("number"), on="target")
        spells = spells.sort("number", "from_day", "card")
        self._high, low = digest(name, texts)
        self._index = KeyIndex(low)
        self._card = spells["card"].to_numpy()
        self._from_day, self._until_day = spells["from_day"].to_numpy(), spells["until_day"].to_numpy()
        self._count = np.bincount(spells["number"].to_numpy(), minlength=len(texts))
        self._first = np.cumsum(self._count) - self._count

    def put(self, card: Ints, high: Words, low: Words, day_of: Callable[[Ints, Ints], Ints]) -> None:
        """Set the card of each record whose number changed hands, in place; -1 if no card had the number then.

        `day_of` returns the local day on which records, given by their positions, were used if cards were theirs.
        """
        row = self._index.find(low)
        at = np.flatnonzero((row >= 0) & (self._high[row] == high))
        number = row[at]
        card[at] = -1
        for further in range(int(self._count[number].max(initial=0))):
            more = np.flatnonzero(self._count[number] > further)
            spell = self._first[number[more]] + further
            owner = self._card[spell]
            day = day_of(owner, at[more])
            here = (self._from_day[spell] <= day) & (day <= self._until_day[spell])
            card[at[more[here]]] = owner[here]
