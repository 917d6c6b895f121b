"""The format of a message of `usage.raw`: value and headers.

feed        name of the mapping
source, digest, row    of a chunk: name and fingerprint of its file, number of its first row
as-of       arrival time of the usage in microseconds; default: the timestamp of the message
encoding    zstd if the value is compressed
csv-header  the header line of a CSV file
form        lines: lines of a text file, unchanged | rows: decoded rows with their raw bytes | absent: a single record
too-long    why the line of the chunk was cut
lists       the entries that the chunk needs of the lists beside its file (F2)
origin      of packed single records: their topic and partition
span, offsets      their offsets there: the first and the number, or each one (little-endian int64)
catalogue   makes the message a marker
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Named
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pipeline.feeds.decode.delimited import DelimitedDecoder
from pipeline.feeds.decode.json_lines import JsonLinesDecoder
from pipeline.journal.arrival import LAST_ARRIVAL_US, time_problem
from rating.errors import MappingError
from schemas.mapping import Mapping

MAX_HEADER_BYTES: Final = 64 << 10  # of the line of column names, which each rejected record carries
LINES, ROWS, ZSTD = b"lines", b"rows", b"zstd"
RAW, REASON, MESSAGE = "@raw", "@reason", "@message"  # columns of rows; no path of a mapping can have these names

_DIGITS: Final = 18
_LAST_US: Final = 253_402_300_799_999_999
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MOST_PACKED: Final = 1 << 23
_MORE_BYTES: Final = 128  # overhead of a message, besides value and headers

_LONGEST_SOURCE: Final = 4096  # bytes; each reject and each rated row carries the name
_LONGEST_DIGEST: Final = 256

Decoder = DelimitedDecoder | JsonLinesDecoder


@dataclass(frozen=True)
class Origins:
    """The topics that `weir pack` may pack from: the number of partitions of each, as [worker].origins says.

    Partition `n` of such a topic goes to partition `n % raw_partitions` of usage.raw, and to no other.
    """

    partitions: Named[str, int]
    raw_partitions: int

    def allow(self, topic: str, partition: int, raw_partition: int) -> bool:
        """Return whether a chunk in `raw_partition` may have come from this partition of a topic."""
        return partition < self.partitions.get(topic, 0) and partition % self.raw_partitions == raw_partition


NO_ORIGINS: Final = Origins({}, 1)


@dataclass(frozen=True)
class RawMessage:
    """A message of `usage.raw`. If a header occurs twice, the first one counts.

    A header without bytes as its value, which Kafka allows, is left out.
    """

    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()

    def __post_init__(self) -> None:
        """Leave out headers that are not a text with bytes."""
        if not all(map(_is_plain, self.headers)):
            object.__setattr__(self, "headers", tuple(filter(_is_plain, self.headers)))

    def header(self, name: str) -> bytes | None:
        """Return the value of a header, or None if it is missing."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def is_chunk(self) -> bool:
        """True for a chunk of a file or of packed records, False for a single record or a marker."""
        return any(key in ("form", "row") for key, _ in self.headers)

    @property
    def size_bytes(self) -> int:
        """Estimated size in a topic, rather too large."""
        return len(self.value) + sum(len(key) + len(text) + 16 for key, text in self.headers) + _MORE_BYTES


def _is_plain(header: tuple[Any, Any]) -> bool:
    key, text = header
    return isinstance(key, str) and isinstance(text, bytes)


def marker(catalogue_offset: int) -> RawMessage:
    """Return a marker. Usage after it is routed by all catalogues accepted up to this offset of `commands`."""
    return RawMessage(b"", (("catalogue", str(catalogue_offset).encode()),))


class Facts(NamedTuple):
    """The checked headers of a message. `as_of_us` is -1 if the timestamp of the message is the arrival time."""

    feed: str
    source: str = ""
    fingerprint: str = ""
    row: int = 0
    as_of_us: int = -1
    packed: bool = False
    header: bytes | None = None
    form: bytes = b""
    too_long: str = ""
    offsets: bytes | None = None  # of packed records, in the topic that they came from
    lists: bytes = b""
    origin: tuple[str, int] | None = None  # of packed records: their topic and partition


def facts_of(message: RawMessage) -> Facts:
    """Check and return the headers of a chunk or single record.

    Raises ValueError with the value that was found and what was expected.
    """
    held = dict(reversed(message.headers))
    feed = _text(held, "feed", needed=True)
    as_of_us = instant_of(held["as-of"]) if "as-of" in held else -1
    if as_of_us is None:
        raise ValueError(f"found {held['as-of']!r:.60} in header as-of; expected microseconds since 1970, to year 9999")
    packed, form = held.get("encoding"), held.get("form", b"")
    if packed not in (None, ZSTD):
        raise ValueError(f"found encoding {packed!r:.60}; expected none, or zstd")
    header = held.get("csv-header")
    if header is not None and len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"found a csv-header of {len(header):,} bytes; expected at most {MAX_HEADER_BYTES:,}")
    facts = Facts(
        feed,
        as_of_us=as_of_us,
        packed=packed == ZSTD,
        header=header,
        form=form,
        lists=held.get("lists", b""),
    )
    if not message.is_chunk:
        return facts
    if form not in (LINES, ROWS):
        raise ValueError(f"found form {form!r:.60}; expected lines or rows")
    facts = facts._replace(too_long=_text(held, "too-long"))
    if "origin" in held:
        topic, _, partition = _text(held, "origin").rpartition(" ")
        offsets = _offsets_of(held)
        if not _TOPIC.fullmatch(topic) or not partition.encode().isdigit() or len(partition) > 9:
            raise ValueError(f"found origin {held['origin']!r:.60}; expected topic and partition")
        place = f"{topic}[{int(partition)}]"
        return facts._replace(source=place, fingerprint=place, offsets=offsets, origin=(topic, int(partition)))
    return facts._replace(
        source=_text(held, "source", needed=True, most_bytes=_LONGEST_SOURCE),
        fingerprint=_text(held, "digest", needed=True, most_bytes=_LONGEST_DIGEST),
        row=_number(held, "row"),
    )


def _offsets_of(held: dict[str, bytes]) -> bytes:
    """Return the offsets of packed records as little-endian int64. Raises ValueError if the headers are wrong."""
    if "span" not in held:
        given = held.get("offsets", b"")
        if not given or len(given) % 8:
            raise ValueError(f"found {len(given)} bytes of offsets; expected eight for each line")
        offsets = np.frombuffer(given, "<i8")
        if offsets[0] < 0 or offsets[-1] >= 10**_DIGITS or (offsets[1:] <= offsets[:-1]).any():
            raise ValueError(f"found offsets that do not ascend from 0 to 10^{_DIGITS}; expected those of a partition")
        return given
    words = held["span"].split(b" ")
    if len(words) != 2 or not all(word.isdigit() and len(word) <= _DIGITS for word in words):
        raise ValueError(f"found span {held['span']!r:.60}; expected the first offset and how many there are")
    first, count = map(int, words)
    if not 0 < count <= _MOST_PACKED:
        raise ValueError(f"found a span of {count}; expected 1 to {_MOST_PACKED}")
    return np.arange(first, first + count, dtype="<i8").tobytes()


def decoder_of(mapping: Mapping, header: bytes | None, path: Path = Path("csv-header")) -> Decoder:
    """Return the decoder for lines of a feed: CSV under `header`, or JSON objects for every other file format.

    Raises MappingError if the header is missing or lacks a column that the mapping requires.
    """
    if mapping.format.type != "csv":
        return JsonLinesDecoder(mapping)
    if mapping.format.header and header is None:
        raise MappingError(f"found no header csv-header; expected the column names of feed {mapping.name!r}")
    return DelimitedDecoder(mapping, path, header if mapping.format.header else None)


def _text(held: dict[str, bytes], name: str, *, needed: bool = False, most_bytes: int = MAX_HEADER_BYTES) -> str:
    text = held.get(name, b"").decode()
    if len(held.get(name, b"")) > most_bytes:
        raise ValueError(f"found {len(held[name]):,} bytes in header {name}; expected at most {most_bytes:,}")
    if needed and not text:
        raise ValueError(f"found no header {name}; expected one in every message of usage")
    return text


def instant_of(text: bytes | None) -> int | None:
    """Return the time in an as-of header, in microseconds; None if it is missing or not a time before year 10000."""
    if text is None or not text.isdigit() or len(text) > _DIGITS or int(text) > _LAST_US:
        return None
    return int(text)


def arrival_of(timestamp_us: int, message: RawMessage, now_us: int | None = None) -> tuple[int, str | None]:
    """Return the arrival time of a message in microseconds, and what is wrong with it, or None.

    It is the header as-of, or else the timestamp. Neither may be more than a day after the machine's clock `now_us`,
    and as-of no more than a day after the timestamp. A wrong time is replaced by the latest one that may count.
    """
    problem = time_problem(timestamp_us, now_us)
    latest_us = LAST_ARRIVAL_US if now_us is None else now_us
    sent_us = timestamp_us if problem is None else min(max(timestamp_us, 0), latest_us)
    as_of_us = instant_of(message.header("as-of"))
    if problem is not None or as_of_us is None:
        return sent_us, problem
    problem = time_problem(as_of_us, sent_us)
    return (as_of_us, None) if problem is None else (sent_us, f"as-of: {problem}")


def _number(held: dict[str, bytes], name: str) -> int:
    text = held.get(name)
    if text is None or not text.isdigit() or len(text) > _DIGITS:
        raise ValueError(f"found {text!r:.60} in header {name}; expected a whole number")
    return int(text)
