"""Checks of names against the catalogue, so that a typing error gives an error and not an empty list."""

from __future__ import annotations

from collections.abc import Iterable

from rating.errors import UsageError


def unknown(noun: str, found: str, known: Iterable[str]) -> UsageError:
    """Return the error for an unknown name. It lists the known names or the nearest ones. `noun` is, e.g., "a plan"."""
    from pipeline.catalogue.findings import choice  # only an error needs what reads catalogue files

    return UsageError(f"found {noun.split(' ', 1)[1]} {found!r}; expected {choice(found, known, f'{noun}: one of')}")


def require_known(noun: str, name: str | None, known: Iterable[str]) -> None:
    """Raise UsageError if `name` is not None and not in `known`."""
    names = set(known)
    if name is not None and name not in names:
        raise unknown(noun, name, names)
