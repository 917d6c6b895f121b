"""How large the parts of a message of the command log may be, so that every row that carries their texts fits one."""

from __future__ import annotations

from typing import Final

import msgspec
import polars as pl

from pipeline.journal.entries import Apply, Commands, Tick

MOST_BYTES: Final = 64 << 10  # of a command, of the texts of a card, and of an entry of the catalogue that rows carry
_LONGEST_ID: Final = 1024
_WHOLE: Final = ("accounts", "pools", "addons", "rules")  # rows may carry any text of these; of the others the id
_NAMED: Final = ("zones", "plans")


def size_problem(entry: Apply | Commands | Tick, content_bytes: int) -> str | None:
    """Return what is too large in an entry whose message has `content_bytes`; None if nothing is.

    The cards of a small message may be large, because they come packed.
    """
    if isinstance(entry, Commands) and content_bytes > MOST_BYTES:
        sizes = (len(msgspec.json.encode(command)) for command in entry.commands)
        return _problem("a command", max(sizes, default=0), MOST_BYTES)
    if isinstance(entry, Apply):
        change = entry.catalogue
        problem = _problem("a card with texts", _texts_bytes(change.cards), MOST_BYTES)
        if problem is not None or content_bytes <= _LONGEST_ID:
            return problem
        for name in (*_WHOLE, *_NAMED):
            for one in getattr(change, name):
                problem = _problem(f"an id in {name}", len(one.id.encode(errors="replace")), _LONGEST_ID)
                if problem is None and name in _WHOLE and content_bytes > MOST_BYTES:
                    problem = _problem(f"one of {name}", len(msgspec.json.encode(one)), MOST_BYTES)
                if problem is not None:
                    return problem
    return None


def _texts_bytes(cards: pl.DataFrame) -> int:
    """Return a number of bytes that the texts of no card exceed."""
    if cards.estimated_size() <= MOST_BYTES:
        return 0
    longest = cards.select(
        pl.col(pl.String).str.len_bytes().max(), pl.col(pl.List(pl.String)).list.join("").str.len_bytes().max()
    )
    return sum(length or 0 for length in longest.row(0))


def _problem(what: str, found: int, most: int) -> str | None:
    return None if found <= most else f"found {what} of {found:,} bytes; expected at most {most:,}"
