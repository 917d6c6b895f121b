"""Standard code lists (currencies, countries, time zones), and the syntax of ids and PLMNs.

Currencies (ISO 4217) and countries (ISO 3166) come from the Unicode CLDR, as Babel carries it (docs/decisions/0051).
Both lists change most years. Babel is imported by the first call that needs it: it takes a tenth of a second.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from importlib.resources import files

from pipeline.catalogue.findings import choice

_ID = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,126}[^\s\x00-\x1f\x7f])?")
_PLMN = re.compile(r"[2-9][0-9]{4,5}")

_NOT_ISO_4217 = frozenset({"CNH"})  # the renminbi outside of China: CLDR has a code for it, ISO 4217 has none
_FIRST_PRIVATE_NUMBER = 900  # ISO 3166 gives numbers up to 899 to countries; CLDR gives EU, XK and others higher ones


@functools.cache
def currencies() -> frozenset[str]:
    """Return the ISO 4217 codes in use today (UTC): legal tender, and units of account such as XDR."""
    return frozenset(code for code, end in _currency_ends().items() if end is None)


@functools.cache
def countries() -> frozenset[str]:
    """Return the ISO 3166-1 alpha-2 codes, and XK: networks of Kosovo are in roaming lists under that code."""
    from babel.core import get_global

    # The keys are other codes of a territory; those of ISO 3166 are the territories with a number of their own.
    return frozenset(
        territories[0]
        for code, territories in get_global("territory_aliases").items()
        if code.isdigit() and int(code) < _FIRST_PRIVATE_NUMBER and len(territories) == 1
    ) | {"XK"}


def expected_currency(code: str) -> str:
    """Return what a finding expects instead of `code`, which is not in `currencies()`."""
    end = _currency_ends().get(code.upper())
    if end is not None:
        return f"the ISO 4217 code of a currency in use: {code.upper()} was one until {end}"
    return choice(code.upper(), currencies(), "an ISO 4217 code: one of")


@functools.cache
def _currency_ends() -> dict[str, dt.date | None]:
    """Return all currencies up to today, and the last day of those that no territory uses any more."""
    from babel.core import get_global
    from babel.numbers import get_territory_currencies

    today = dt.datetime.now(dt.UTC).date()
    ends: dict[str, dt.date | None] = {}
    for territory in get_global("territory_currencies"):
        for use in get_territory_currencies(territory, dt.date.min, today, non_tender=True, include_details=True):
            code, end = use["currency"], use["to"]
            if end is None or end >= today or (code in ends and ends[code] is None):
                ends[code] = None
            else:
                ends[code] = max(end, ends.get(code) or end)
    return {code: end for code, end in ends.items() if code not in _NOT_ISO_4217}


@functools.cache
def time_zones() -> frozenset[str]:
    """Return the names of the IANA time zone database, from the edition that the calendars use."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


def is_id(text: str) -> bool:
    """Return whether `text` can be an id: 1 to 128 characters, no control characters, no space at either end."""
    return _ID.fullmatch(text) is not None


def is_plmn(text: str) -> bool:
    """Return whether `text` is an MCC and MNC, together 5 or 6 digits. An MCC begins with 2 to 9."""
    return _PLMN.fullmatch(text) is not None
