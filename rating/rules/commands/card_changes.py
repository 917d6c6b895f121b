"""Changes of cards by commands and actions: status, plan, tags and custom fields (L10)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.cards import CARD_SCHEMA, CHANGE_SCHEMA
from schemas.commands import Command
from schemas.rules import Action

Change = dict[str, Any]  # new values, by column of CARD_SCHEMA

# Notes: changes of cards by actions that Weir carries out itself. The next entry other than usage applies them.
NOTE_SCHEMA: Final = {
    "iccid": pl.String(),
    "tag": pl.String(),  # to add; null: none
    "attribute": pl.String(),  # custom field to set; null: none
    "value": pl.String(),
}
_OWN: Final = ("add_tag", "set_attribute")


def is_own(action: Action) -> bool:
    """Return whether an action changes only Weir's own record of a card."""
    return action.type in _OWN


def no_notes() -> pl.DataFrame:
    """Return an empty frame of notes (NOTE_SCHEMA)."""
    return pl.DataFrame(schema=NOTE_SCHEMA)


def notes_of(actions: pa.Table) -> pl.DataFrame:
    """Return the notes (NOTE_SCHEMA) of those actions (ACTIONS) that change only Weir's own record of a card."""
    own = actions.filter(pc.is_in(actions["action"].cast(pa.string()), pa.array(_OWN)))
    if not own.num_rows:
        return no_notes()
    frame = pl.from_arrow(own.select(["iccid", "parameters"]).cast(_PLAIN))
    assert isinstance(frame, pl.DataFrame)
    told = pl.Struct({name: kind for name, kind in NOTE_SCHEMA.items() if name != "iccid"})
    return frame.select("iccid", pl.col("parameters").str.json_decode(told)).unnest("parameters")


_PLAIN: Final = pa.schema([("iccid", pa.string()), ("parameters", pa.string())])


def noted_cards(cards: pl.DataFrame, notes: pl.DataFrame) -> pl.DataFrame:
    """Return the cards (CARD_SCHEMA) that the notes name, with the noted tags and custom fields applied.

    A tag that a card already has is not added twice. If a field gets several values, the last one applies.
    """
    touched = cards.join(notes.select("iccid").unique(), on="iccid", how="semi", maintain_order="left")
    tags = notes.filter(pl.col("tag").is_not_null()).group_by("iccid", maintain_order=True).agg(told="tag")
    fields = notes.filter(pl.col("attribute").is_not_null()).group_by("iccid", maintain_order=True)
    values = {str(key[0]): dict(rows.select("attribute", "value").iter_rows()) for key, rows in fields}
    tagged = touched.join(tags, on="iccid", how="left", maintain_order="left").with_columns(
        tags=pl.when(pl.col("told").is_null())
        .then(pl.col("tags"))
        .otherwise(
            pl.concat_list(pl.col("tags").fill_null([]), pl.col("told").fill_null([])).list.unique(maintain_order=True)
        )
    )
    custom = [
        _with_fields(text, values[iccid]) if iccid in values else text
        for iccid, text in tagged.select("iccid", "custom").iter_rows()
    ]
    return tagged.with_columns(custom=pl.Series(custom, dtype=pl.String)).select(*CARD_SCHEMA)


def _with_fields(custom: str | None, values: dict[str, str]) -> str:
    fields: dict[str, Any] = msgspec.json.decode(custom) if custom else {}
    return msgspec.json.encode(fields | values).decode()


def changed_cards(cards: pl.DataFrame, changes: Iterable[tuple[str, Change]]) -> pl.DataFrame:
    """Return the changes (CHANGE_SCHEMA) of cards with these ICCIDs, at most one of each; skip unknown ICCIDs."""
    merged = {
        iccid: change | {"given": ",".join(name for name in change if name != "from")} for iccid, change in changes
    }
    touched = cards.filter(pl.col("iccid").is_in(list(merged)))
    rows = [row | merged[row["iccid"]] for row in touched.iter_rows(named=True)]
    return pl.DataFrame(rows, schema=CHANGE_SCHEMA)


def rounds(results: list[tuple[int, str, Command]]) -> list[list[tuple[int, str, Command]]]:
    """Split results (offset, ICCID, result) into consecutive rounds in which each card occurs at most once."""
    found: list[list[tuple[int, str, Command]]] = []
    named: set[str] = set()
    for one in results:
        if not found or one[1] in named:
            found.append([])
            named = set()
        found[-1].append(one)
        named.add(one[1])
    return found
