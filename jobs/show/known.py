"""Names that the catalogue must know: an unknown one is refused, so that a slip of the pen is no empty list."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.catalogue.findings import choice
from rating.errors import UsageError


def unknown(noun: str, found: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is none of `known`; it lists those, or the nearest. `noun` is such as "a plan"."""
    return UsageError(f"found {noun.split(' ', 1)[1]} {found!r}; expected {choice(found, known, f'{noun}: one of')}")


def require_known(noun: str, name: str | None, known: Iterable[str]) -> None:
    """Raise UsageError if a name is given that is none of `known`."""
    names = set(known)
    if name is not None and name not in names:
        raise unknown(noun, name, names)
