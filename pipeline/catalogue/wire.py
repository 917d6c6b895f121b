"""Encoding of a catalogue to bytes and back, for the journal entry of one `weir apply`."""

from __future__ import annotations

import io
import struct

import msgspec
import polars as pl

from rating.errors import StorageError
from schemas.cards import CARD_SCHEMA, CHANGE_SCHEMA, Account, Addon, Catalogue, Pool
from schemas.plans import Plan, ZoneSet
from schemas.rules import Rule

_MAGIC = b"WCAT\x01"  # the last byte is the version of this layout
_LENGTHS = struct.Struct("<QQ")  # lengths in bytes of the JSON and of the Arrow stream


class _Documents(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """All entries of a catalogue except its cards."""

    accounts: tuple[Account, ...]
    zones: tuple[ZoneSet, ...]
    plans: tuple[Plan, ...]
    pools: tuple[Pool, ...]
    addons: tuple[Addon, ...]
    rules: tuple[Rule, ...] = ()


def catalogue_to_bytes(catalogue: Catalogue) -> bytes:
    """Return the catalogue as bytes: magic, two lengths (uint64, little endian), JSON, cards as an Arrow IPC stream.

    Equal catalogues give equal bytes. The cards must have the columns of CARD_SCHEMA; those of CHANGE_SCHEMA are
    kept as well.
    """
    documents = _Documents(
        accounts=catalogue.accounts,
        zones=catalogue.zones,
        plans=catalogue.plans,
        pools=catalogue.pools,
        addons=catalogue.addons,
        rules=catalogue.rules,
    )
    text = msgspec.json.encode(documents)
    stream = io.BytesIO()
    # One chunk, so that the bytes do not depend on how the frame was built.
    _typed(catalogue.cards).rechunk().write_ipc_stream(stream, compression="lz4")
    cards = stream.getvalue()
    return b"".join((_MAGIC, _LENGTHS.pack(len(text), len(cards)), text, cards))


def catalogue_from_bytes(data: bytes) -> Catalogue:
    """Return the catalogue from the bytes of `catalogue_to_bytes`. Raises StorageError if they are no such bytes."""
    start = len(_MAGIC) + _LENGTHS.size
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise StorageError(f"not a catalogue entry: begins with {data[:8]!r}, expected {_MAGIC!r}; restore a backup")
    text_length, cards_length = _LENGTHS.unpack_from(data, len(_MAGIC))
    if len(data) != start + text_length + cards_length:
        raise StorageError(
            f"a catalogue entry is cut off: {len(data)} bytes, expected {start + text_length + cards_length}; "
            "restore a backup"
        )
    try:
        documents = msgspec.json.decode(data[start : start + text_length], type=_Documents)
        cards = _typed(pl.read_ipc_stream(io.BytesIO(data[start + text_length :])))
    except (msgspec.MsgspecError, UnicodeDecodeError, pl.exceptions.PolarsError, OSError) as error:
        raise StorageError(f"a catalogue entry is damaged: {error}; restore a backup") from error
    return Catalogue(
        accounts=documents.accounts,
        zones=documents.zones,
        plans=documents.plans,
        pools=documents.pools,
        addons=documents.addons,
        rules=documents.rules,
        cards=cards,
    )


def _typed(cards: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of CARD_SCHEMA, and the others of CHANGE_SCHEMA that there are, in this order."""
    schema = {name: kind for name, kind in CHANGE_SCHEMA.items() if name in CARD_SCHEMA or name in cards.columns}
    return cards.select(pl.col(name).cast(kind) for name, kind in schema.items())
