"""Code lists of the world: currencies, countries, time zones, and what an id may look like.

Currencies (ISO 4217) and countries (ISO 3166) come from pycountry, the Debian iso-codes: both lists change most years.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files

import pycountry

_ID = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,126}[^\s\x00-\x1f\x7f])?")
_PLMN = re.compile(r"[2-9][0-9]{4,5}")


@functools.cache
def currencies() -> frozenset[str]:
    """Return the ISO 4217 codes in use."""
    return frozenset(currency.alpha_3 for currency in pycountry.currencies)


@functools.cache
def countries() -> frozenset[str]:
    """Return the ISO 3166-1 alpha-2 codes, and XK: networks of Kosovo are in roaming lists under that code."""
    return frozenset(country.alpha_2 for country in pycountry.countries) | {"XK"}


@functools.cache
def time_zones() -> frozenset[str]:
    """Return the names of the IANA time zone database, in the edition that all windows are cut by."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


def is_id(text: str) -> bool:
    """Say whether `text` can be an id: 1 to 128 characters, none of control, no space at either end."""
    return _ID.fullmatch(text) is not None


def is_plmn(text: str) -> bool:
    """Say whether `text` is an MCC and MNC of 5 or 6 digits together; an MCC begins with 2 to 9."""
    return _PLMN.fullmatch(text) is not None
