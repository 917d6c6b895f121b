"""Convert time text to instants: ISO 8601, epochs and strptime formats, in microseconds since 1970 UTC (F2).

The plain version matches `_ISO` and makes a datetime for each text, which took 36 times as long
(benchmarks/plain_versions.py). Here all texts with the layout of the first one are read at once, as columns of bytes.
tests/unit/test_mediate.py writes times in any ISO layout and reads them back.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.mediation.quantity import scale
from schemas.usage import INSTANT

FIRST_YEAR, LAST_YEAR = 1970, 2199

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?: ?([Zz])| ?([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?"
)
_EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
_MAX_LAYOUTS = 8
_LAST_US = 10**16


def _month_table() -> tuple[Ints, Ints]:
    """Return the first day of each month from FIRST_YEAR on (days since 1970), and the length of each month."""
    months = np.arange((FIRST_YEAR - 1970) * 12, (LAST_YEAR + 1 - 1970) * 12 + 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]").astype(np.int64)
    return days[:-1], np.diff(days)


_MONTH_START, _MONTH_DAYS = _month_table()


def parse_times(text: pl.Series, forms: tuple[str, ...], zone: str) -> pl.Series:
    """Return the instants of `text` (String) as Datetime[us, UTC], read by the first of `forms` that fits.

    Text without an offset is local time in `zone`. If the clock shows that time twice, it is the earlier instant. The
    result is null if the text is null, if no form fits, if the clock skips that time, or outside FIRST_YEAR to
    LAST_YEAR. Fractions beyond microseconds are cut.
    """
    parsed = _parse_form(text, forms[0], zone)
    for form in forms[1:]:
        if parsed.null_count() == text.null_count():
            break
        open_rows = (parsed.is_null() & text.is_not_null()).arg_true()
        parsed = parsed.scatter(open_rows, _parse_form(text.gather(open_rows), form, zone))
    return parsed


def _parse_form(text: pl.Series, form: str, zone: str) -> pl.Series:
    if form == "iso":
        return _parse_iso(text, zone)
    if form in _EPOCHS:
        return _in_range(scale(text, _EPOCHS[form], limit=_LAST_US).units)
    parsed = text.str.to_datetime(form, time_unit="us", strict=False)
    if isinstance(parsed.dtype, pl.Datetime) and parsed.dtype.time_zone is not None:
        return _in_range(parsed.dt.convert_time_zone("UTC").to_physical())
    return _local(parsed.to_physical(), zone)


def _in_range(us: pl.Series) -> pl.Series:
    inside = (us >= 0) & (us < int(_MONTH_START[-1] + 31) * _DAY)
    if not inside.fill_null(True).all():
        us = us.zip_with(inside, pl.Series([None], dtype=pl.Int64))
    return us.cast(INSTANT)


def _local(us: pl.Series, zone: str) -> pl.Series:
    if zone == "UTC":
        return _in_range(us)
    local = us.cast(pl.Datetime("us")).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return _in_range(local.dt.convert_time_zone("UTC").to_physical())


def _parse_iso(text: pl.Series, zone: str) -> pl.Series:
    """Parse ISO 8601 text, layout by layout.

    Each pass reads all rows with the length and layout of the first row that is not read yet.
    """
    array = text.to_arrow()
    count = len(text)
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + count + 1]
    content = array.buffers()[2]
    data = np.frombuffer(content, np.uint8) if content is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    us = np.zeros(count, np.int64)
    known = np.zeros(count, np.bool_)
    fixed = np.zeros(count, np.bool_)  # True if the text has an offset
    rest = np.arange(count) if not text.null_count() else text.is_not_null().arg_true().to_numpy()
    for _ in range(_MAX_LAYOUTS):
        if not len(rest):
            break
        size = int(lengths[rest[0]])
        first = data[offsets[rest[0]] : offsets[rest[0]] + size].tobytes()
        match = _ISO.fullmatch(first.decode("utf-8", "replace"))
        if match is None or size != len(match.group()):
            rest = rest[1:]
            continue
        same = lengths[rest] == size
        rows = rest if same.all() else rest[same]
        if len(rows) == count and offsets[-1] - offsets[0] == count * size:
            block = data[offsets[0] : offsets[-1]].reshape(count, size)
        else:
            block = np.lib.stride_tricks.sliding_window_view(data, size)[offsets[rows]]
        value, good = _read_layout(block, match)
        us[rows] = value
        known[rows] = good
        fixed[rows] = match.group(8) is not None or match.group(9) is not None
        leader = rest[0]
        rest = rest[~known[rest]]
        if len(rest) and rest[0] == leader:  # the layout fits, but it is not a real time
            rest = rest[1:]
    for row in rest.tolist():
        match = _ISO.fullmatch(text[row])
        if match is not None:
            block = np.frombuffer(match.group().encode(), np.uint8).reshape(1, -1)
            value, good = _read_layout(block, match)
            us[row], known[row] = value[0], good[0]
            fixed[row] = match.group(8) is not None or match.group(9) is not None
    instants = pl.Series(us)
    if not known.all():
        instants = instants.zip_with(pl.Series(known), pl.Series([None], dtype=pl.Int64))
    if zone == "UTC" or fixed.all():
        return _in_range(instants)
    flags = pl.Series(fixed)
    return _in_range(instants).zip_with(flags, _local(instants, zone))


def _read_layout(block: Bytes, layout: re.Match[str]) -> tuple[Ints, Flags]:
    """Return the time of each row in microseconds, int64[n], and whether the row is valid, bool[n].

    `block` is the text of the rows, uint8[n, size]. A row is valid if it has the layout and is a real time.
    """
    lines = np.ascontiguousarray(block.T)  # one line per position, so that every step below reads neighbouring bytes
    digits = lines - np.uint8(48)
    spans = [layout.span(group) for group in (1, 2, 3, 4, 5, 6, 7, 10, 11) if layout.group(group) is not None]
    numeric = np.zeros(len(lines), np.bool_)
    for start, end in spans:
        numeric[start:end] = True
    text = np.frombuffer(layout.string.encode(), np.uint8)
    good: Flags = np.logical_and.reduce(digits[numeric] <= 9)
    np.logical_and(good, np.logical_and.reduce(lines[~numeric] == text[~numeric, None]), out=good)

    def two(place: int) -> Bytes:
        value: Bytes = digits[place] * np.uint8(10) + digits[place + 1]
        return value

    def number(group: int, most: int) -> npt.NDArray[np.int32]:
        value = two(layout.start(group))
        np.logical_and(good, value <= most, out=good)
        return value.astype(np.int32)

    month, day = two(layout.start(2)), two(layout.start(3))
    year = two(layout.start(1)) * np.int32(100) + two(layout.start(1) + 2)
    good &= (year >= FIRST_YEAR) & (year <= LAST_YEAR) & (month >= 1) & (month <= 12) & (day >= 1)
    index = np.where(good, (year - FIRST_YEAR) * 12 + month - 1, 0)
    good &= day <= _MONTH_DAYS[index]
    us = (_MONTH_START[index] + day - 1) * 86_400
    if layout.group(4) is not None:
        us += number(4, 23) * 3600 + number(5, 59) * 60
    if layout.group(6) is not None:
        us += number(6, 59)
    us *= _SECOND
    if layout.group(7) is not None:
        start, end = layout.span(7)
        fraction = np.zeros(len(block), np.int32)
        for place in range(start, end):
            fraction = fraction * np.int32(10) + digits[place]
        places = end - start
        us += fraction * 10 ** (6 - places) if places <= 6 else fraction // 10 ** (places - 6)
    if layout.group(9) is not None:
        ahead = number(10, 23) * np.int64(_HOUR)
        if layout.group(11) is not None:
            ahead += number(11, 59) * np.int64(_MINUTE)
        us += ahead if layout.group(9) == "-" else -ahead
    return us, good
