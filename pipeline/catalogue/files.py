"""Reading of catalogue files: plain or compressed, TOML documents or card lists."""

from __future__ import annotations

import gzip
import io
import re
import tomllib
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from pipeline.catalogue.findings import Entry, Findings, FloatText, Text, choice
from pipeline.catalogue.lines import Lines, locate
from pipeline.feeds.decode.stream import compression_of
from rating.errors import SourceError

MOST_BYTES = 512 << 20  # of one file, unpacked: some five million cards
MOST_LINE_BYTES = 1 << 20  # as in a feed; a longer line is no catalogue, and would need many times its size in memory
MOST_TOML_BYTES = 4 << 20  # TOML is for plans and short lists; long card lists are CSV

_PIECE = 1 << 20
_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

_DEEP_KEY = re.compile(r"(?:\.[^.\s,]{0,1000}){100}")

TABLES = ("accounts", "zones", "plans", "pools", "addons", "rules", "limits", "cards")


def read_bytes(path: Path, findings: Findings) -> bytes | None:
    """Return the content of a file, unpacked if it is gzip or zstd; None with a finding that says what is wrong.

    Compressed data that ends too early or does not unpack is a finding. Raises SourceError if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            data = _unpack(file, start)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; decompressors give no number
            reason = error.strerror or error
            raise SourceError(f"{path}: cannot be read: {reason}; check the name and the rights") from error
        findings.place(str(path), 0, "file", Text(f"damaged compressed data ({error})"), "a whole gzip or zstd file")
        return None
    if len(data) > MOST_BYTES:
        expected = f"at most {MOST_BYTES >> 20} MiB unpacked: split it"
        findings.place(str(path), 0, "file", Text(f"more than {MOST_BYTES >> 20} MiB"), expected)
        return None
    long_line = _long_line(data)
    if long_line is not None:
        line = data.count(b"\n", 0, long_line) + 1
        expected = f"lines of at most {MOST_LINE_BYTES >> 20} MiB"
        findings.place(str(path), line, "file", Text(f"a line of more than {MOST_LINE_BYTES >> 20} MiB"), expected)
        return None
    return data


def _long_line(data: bytes) -> int | None:
    """Return the offset of the first line longer than MOST_LINE_BYTES; None if there is none."""
    start = 0
    while len(data) - start > MOST_LINE_BYTES:
        newline = data.rfind(b"\n", start, start + MOST_LINE_BYTES + 1)
        if newline < 0:
            return start
        start = newline + 1
    return None


def _unpack(file: BinaryIO, start: bytes) -> bytes:
    """Read little more than MOST_BYTES at most, so that a small file cannot unpack into all of the memory."""
    match compression_of(start):
        case "gzip":
            with gzip.open(file) as unpacked:
                return _read_up_to(unpacked)  # type: ignore[arg-type]  # a GzipFile reads bytes
        case "zstd":  # read by Arrow, which refuses a frame that is cut off; python-zstandard takes what there is of it
            with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as reader:
                return _read_up_to(reader)
        case _:
            return _read_up_to(file)


def _read_up_to(file: BinaryIO) -> bytes:
    whole = io.BytesIO()
    while whole.tell() <= MOST_BYTES and (piece := file.read(_PIECE)):
        whole.write(piece)
    return whole.getvalue()


def decode(data: bytes, file: str, findings: Findings) -> str | None:
    """Return UTF-8 text without its byte order mark; else add a finding with the line of the first bad byte, and
    return None.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = Text(f"byte 0x{data[error.start]:02x} that is not UTF-8")
        findings.place(file, line, "file", found, "UTF-8 text: save the file as UTF-8")
        return None


def toml_entries(data: bytes, file: str, findings: Findings) -> dict[str, list[Entry[dict[str, Any]]]]:
    """Return the tables of a TOML catalogue file by kind, in order; add findings about everything outside them."""
    entries: dict[str, list[Entry[dict[str, Any]]]] = {table: [] for table in TABLES}
    if len(data) > MOST_TOML_BYTES:
        expected = f"at most {MOST_TOML_BYTES >> 20} MiB of TOML: put long card lists into a CSV file"
        findings.place(file, 0, "file", Text(f"{len(data)} bytes"), expected)
        return entries
    text = decode(data, file, findings)
    if text is None:
        return entries
    if _DEEP_KEY.search(text):  # the time of tomllib grows with the square of the depth
        findings.place(file, 0, "file", Text("a key of more than 100 parts"), "TOML as in docs/catalogue.md")
        return entries
    try:
        document = tomllib.loads(text, parse_float=FloatText)
        lines = locate(text)
    except RecursionError:
        findings.place(file, 0, "file", Text("arrays or tables nested too deeply"), "TOML as in docs/catalogue.md")
        return entries
    except ValueError as error:  # TOMLDecodeError, or a number with more digits than Python reads
        position = _POSITION.search(str(error))
        line = int(position[1] or text.count("\n") + 1) if position else 0
        said = str(error)[: position.start()] if position else str(error)
        findings.place(file, line, "file", Text(f"what is not TOML ({said})"), "TOML 1.0")
        return entries
    for name, value in document.items():
        _table(name, value, file, lines, findings, entries)
    return entries


def _table(
    name: str,
    value: object,
    file: str,
    lines: Lines,
    findings: Findings,
    entries: dict[str, list[Entry[dict[str, Any]]]],
) -> None:
    line = lines.line((name,))
    if name not in TABLES:
        findings.place(file, line, name, Text("an unknown table"), choice(name, TABLES))
    elif not isinstance(value, list):
        findings.place(file, line, name, value, f"an array of tables: write [[{name}]]")
    else:
        for index, item in enumerate(value):
            path = (name, index)
            if isinstance(item, dict):
                key = item.get("iccid" if name == "cards" else "id")
                title = f"{name}.{key}" if isinstance(key, str) and key else f"{name}[{index}]"
                entries[name].append(Entry(item, file, lines, path, title))
            else:
                findings.place(file, lines.line(path), f"{name}[{index}]", item, "a table")
