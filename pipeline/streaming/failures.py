"""What a hostile message may raise, and how to describe it."""

from __future__ import annotations

from typing import Final

from polars.exceptions import PanicException

# A panic of Polars is no Exception, so that nobody catches it by accident. It leaves the process usable.
ANY_FAILURE: Final = (Exception, PanicException)

_LONGEST: Final = 300


def said(failure: BaseException) -> str:
    """Return kind and text of a failure in one short line that is valid Unicode."""
    text = f"{type(failure).__name__}: {failure}".encode(errors="replace").decode()
    return " ".join(text.split())[:_LONGEST]
