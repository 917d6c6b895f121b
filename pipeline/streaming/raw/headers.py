"""What a message of `usage.raw` is: value and headers, and what the headers say.

feed        name of the mapping
source, digest, row    of a chunk: name and fingerprint of its file, number of its first row
as-of       when the usage arrived, in microseconds; else the time of the message holds
encoding    zstd, where the value is packed
csv-header  the header line of CSV
form        lines: of a text file, as they are | rows: decoded, with their raw bytes | none: a single record
too-long    why the line of the chunk is not whole
lists       what the chunk needs of the lists beside its file (F2)
origin      topic and partition of single records that were packed
span, offsets      their offsets there: the first and how many, or each of them (little-endian int64)
catalogue   makes it a marker
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from pipeline.feeds.decode.delimited import DelimitedDecoder
from pipeline.feeds.decode.json_lines import JsonLinesDecoder
from rating.errors import MappingError
from schemas.mapping import Mapping

MAX_HEADER_BYTES: Final = 64 << 10  # of the line of column names: each reject carries it
LINES, ROWS, ZSTD = b"lines", b"rows", b"zstd"
RAW, REASON, MESSAGE = "@raw", "@reason", "@message"  # columns of rows, named so that no path of a mapping can be

_DIGITS: Final = 18
_LAST_US: Final = 253_402_300_799_999_999
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MOST_PACKED: Final = 1 << 23
_MORE_BYTES: Final = 128  # what a message takes besides value and headers, and each header besides its text

Decoder = DelimitedDecoder | JsonLinesDecoder


@dataclass(frozen=True)
class RawMessage:
    """A message of `usage.raw`; where a header comes twice, the first one counts."""

    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()

    def header(self, name: str) -> bytes | None:
        """The value of a header, None where there is none."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def is_chunk(self) -> bool:
        """Whether it is a chunk of a file, or of packed records, and no single record or marker."""
        return any(key in ("form", "row") for key, _ in self.headers)

    @property
    def size_bytes(self) -> int:
        """About what it takes in a topic, rather more."""
        return len(self.value) + sum(len(key) + len(text) + 16 for key, text in self.headers) + _MORE_BYTES


def marker(catalogue_offset: int) -> RawMessage:
    """From here on usage of the partition is routed by all accepted catalogues up to this offset of `commands`."""
    return RawMessage(b"", (("catalogue", str(catalogue_offset).encode()),))


class Facts(NamedTuple):
    """The headers of a message, checked. `as_of_us` is -1 where the time of the message itself holds."""

    feed: str
    source: str = ""
    fingerprint: str = ""
    row: int = 0
    as_of_us: int = -1
    packed: bool = False
    header: bytes | None = None
    form: bytes = b""
    too_long: str = ""
    offsets: bytes | None = None  # of single records in the topic that they came from
    lists: bytes = b""
    origin: tuple[str, int] | None = None  # that topic, and its partition


def facts_of(message: RawMessage) -> Facts:
    """The headers of a chunk or a single record. Raises ValueError, naming what was found and expected."""
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
        source=_text(held, "source", needed=True),
        fingerprint=_text(held, "digest", needed=True),
        row=_number(held, "row"),
    )


def _offsets_of(held: dict[str, bytes]) -> bytes:
    """The offsets of packed records, little-endian int64."""
    if "span" not in held:
        offsets = held.get("offsets", b"")
        if not offsets or len(offsets) % 8:
            raise ValueError(f"found {len(offsets)} bytes of offsets; expected eight for each line")
        return offsets
    words = held["span"].split(b" ")
    if len(words) != 2 or not all(word.isdigit() and len(word) <= _DIGITS for word in words):
        raise ValueError(f"found span {held['span']!r:.60}; expected the first offset and how many there are")
    first, count = map(int, words)
    if not 0 < count <= _MOST_PACKED:
        raise ValueError(f"found a span of {count}; expected 1 to {_MOST_PACKED}")
    return np.arange(first, first + count, dtype="<i8").tobytes()


def decoder_of(mapping: Mapping, header: bytes | None, path: Path = Path("csv-header")) -> Decoder:
    """What decodes lines of a feed: CSV under `header`, or JSON objects whatever its files are.

    Raises MappingError where the header lacks a column that the mapping requires.
    """
    if mapping.format.type != "csv":
        return JsonLinesDecoder(mapping)
    if mapping.format.header and header is None:
        raise MappingError(f"found no header csv-header; expected the column names of feed {mapping.name!r}")
    return DelimitedDecoder(mapping, path, header if mapping.format.header else None)


def _text(held: dict[str, bytes], name: str, *, needed: bool = False) -> str:
    text = held.get(name, b"").decode()
    if needed and not text:
        raise ValueError(f"found no header {name}; expected one in every message of usage")
    return text


def instant_of(text: bytes | None) -> int | None:
    """What a header as-of says, in microseconds; None where there is none, or it is no time up to the year 9999."""
    if text is None or not text.isdigit() or len(text) > _DIGITS or int(text) > _LAST_US:
        return None
    return int(text)


def _number(held: dict[str, bytes], name: str) -> int:
    text = held.get(name)
    if text is None or not text.isdigit() or len(text) > _DIGITS:
        raise ValueError(f"found {text!r:.60} in header {name}; expected a whole number")
    return int(text)
