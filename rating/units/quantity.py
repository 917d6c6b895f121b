"""Quantities of a catalogue, read into whole units: bytes, messages, seconds."""

from __future__ import annotations

import re
from fractions import Fraction

from rating.errors import FieldPath, Finding, PlanError

MAX_UNITS = 10**18  # largest quantity in a plan: an exabyte, or some thirty billion years of voice

_TEXT = re.compile(r"(\d{1,24})(?:\.(\d{1,24}))?\s*([A-Za-z]*)\Z", re.ASCII)
_DATA_POWERS = {"b": 0, "byte": 0, "bytes": 0, "kb": 1, "mb": 2, "gb": 3, "tb": 4, "pb": 5}
_BINARY = frozenset({"kib", "mib", "gib", "tib", "pib"})
_SMS = {"sms": 1, "message": 1, "messages": 1}
_VOICE = {"s": 1, "sec": 1, "second": 1, "seconds": 1, "min": 60, "minute": 60, "minutes": 60}
_VOICE |= {"h": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400}
_EXPECTED = {
    "data": 'a size such as "30 MB", "1.5 GB" or a whole number of bytes',
    "sms": 'a number of messages such as 100 or "100 sms"',
    "voice": 'a duration such as "90 s", "2 min", "1 h" or a whole number of seconds',
}


def parse_quantity(quantity: str | int, service: str, data_base: int) -> int:
    """Return `quantity` in whole units of `service`: bytes, messages or seconds.

    KB to PB are powers of `data_base` (1000 or 1024). KiB to PiB are always powers of 1024. A number without a unit
    counts units. Raises PlanError if the text cannot be read, is negative, is not a whole number of units, has a unit
    of another service, or is above MAX_UNITS.
    """
    if service not in _EXPECTED:
        raise PlanError(Finding((), f"service {service!r}", f"one of {', '.join(_EXPECTED)}"))
    if data_base not in (1000, 1024):
        raise PlanError(Finding((), f"data_base {data_base!r}", "1000 or 1024"))
    units = _read(quantity, service, data_base)
    if units is None or units < 0 or units.denominator != 1:
        raise PlanError(Finding((), _shown(quantity), _EXPECTED[service]))
    if units > MAX_UNITS:
        raise PlanError(Finding((), _shown(quantity), f"at most {MAX_UNITS} units"))
    return int(units)


def units_of_field(quantity: str | int, path: FieldPath, service: str, data_base: int, at_least: int = 0) -> int:
    """Return the quantity at `path` in whole units. Raises PlanError if it is invalid or below `at_least`."""
    try:
        value = parse_quantity(quantity, service, data_base)
    except PlanError as error:
        raise PlanError(error.finding.under(*path)) from None
    if value < at_least:
        raise PlanError(Finding(path, repr(quantity), f"{at_least} or more"))
    return value


def _read(quantity: object, service: str, data_base: int) -> Fraction | None:
    if isinstance(quantity, bool):
        return None
    if isinstance(quantity, int):
        return Fraction(quantity)
    match = _TEXT.match(quantity.strip()) if isinstance(quantity, str) else None
    if match is None:
        return None
    size = _unit_size(match[3].lower(), service, data_base)
    if size is None:
        return None
    decimals = match[2] or ""
    return Fraction(int(match[1] + decimals), 10 ** len(decimals)) * size


def _unit_size(unit: str, service: str, data_base: int) -> int | None:
    if not unit:
        return 1
    if service == "sms":
        return _SMS.get(unit)
    if service == "voice":
        return _VOICE.get(unit)
    if unit in _BINARY:
        data_base, unit = 1024, unit.replace("i", "")
    power = _DATA_POWERS.get(unit)
    return None if power is None else int(data_base**power)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
