"""Index of cards by status, tag or custom-field value, for filters on cards (L9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Self

import msgspec
import numpy as np
import polars as pl

from rating.columnar.key_index import Flags, Ints
from schemas.rules import FilterType

_MASKED: Final = 64  # a text that at least 1 of 64 cards has gets a mask; only few texts can be that frequent


class Holders:
    """The cards that have each text.

    Memory grows with the number of pairs of card and text, not with texts times cards.
    """

    def __init__(self, pairs: pl.DataFrame, cards: int) -> None:
        """Index `pairs`, with columns card (Int64) and text, each pair once. `cards` is the number of all cards."""
        grouped = pairs.group_by("text", maintain_order=True).agg("card")
        self._count = cards
        self._rows = {text: row for row, text in enumerate(grouped["text"])}
        self._cards = grouped["card"].explode(empty_as_null=False).to_numpy()
        self._ends = np.cumsum(grouped["card"].list.len().to_numpy(), dtype=np.int64)
        self._masks: dict[str, Flags] = {}

    @classmethod
    def of(cls, cards: pl.DataFrame, kind: FilterType, name: str | None, wanted: set[str]) -> Self:
        """Index the cards that have one of the `wanted` texts as status, as tag, or in the custom field `name`."""
        if kind == "sim_tag":
            texts = cards.select(text=pl.col("tags").list.unique()).with_row_index("card")
            texts = texts.explode("text", empty_as_null=False, keep_nulls=False)
        elif kind == "sim_status":
            texts = cards.select(text=pl.col("status").fill_null("activated")).with_row_index("card")
        else:
            values = pl.Series("text", custom_texts(cards["custom"], name or ""), pl.String)
            texts = values.to_frame().with_row_index("card")
        return cls(texts.filter(pl.col("text").is_in(wanted)).cast({"card": pl.Int64}), len(cards))

    def have(self, text: str, card: Ints) -> Flags:
        """bool[n]: whether each card has the text."""
        row = self._rows.get(text)
        if row is None:
            return np.zeros(len(card), bool)
        if text not in self._masks:
            having = self._cards[int(self._ends[row - 1]) if row else 0 : int(self._ends[row])]
            if len(having) * _MASKED < self._count:
                return among(card, having)
            mask = np.zeros(self._count, bool)
            mask[having] = True
            self._masks[text] = mask
        return self._masks[text][card]


def among(card: Ints, some: Ints) -> Flags:
    """bool[n]: whether each card is one of `some` (int64[k], in any order)."""
    found: Flags = card == some[0] if len(some) == 1 else np.isin(card, some, kind="table")
    return found


def custom_texts(custom: pl.Series, name: str) -> Iterator[str | None]:
    """Yield the value of the custom field `name` in each JSON object, as text.

    Numbers and booleans are spelled as in the JSON. The value is None if the field is absent, or is null, an object or
    an array.
    """
    field = msgspec.defstruct("Field", [("value", msgspec.Raw, msgspec.Raw())], rename={"value": name})
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(field)
    for text in custom:
        if text is None:
            yield None
            continue
        try:
            written = bytes(decoder.decode(text).value)
        except (msgspec.DecodeError, RecursionError):
            written = b""
        if written[:1] == b'"':
            yield msgspec.json.decode(written, type=str)
        else:
            yield None if written[:1] in (b"", b"n", b"{", b"[") else written.decode()
