"""Decodes delimited text (CSV) into columns of text (F2, F5).

A record is a physical line. It is several lines, at most MAX_RECORD_LINES, if a quote is still open at the end of the
first and the lines together make one well-formed record.

The plain version is Python's csv module on each line, which makes a Python object of every field and takes 24 to 35
times as long (benchmarks/plain_versions.py). It is used only for lines that are hard to judge. Most blocks take the
fast path: Polars parses the whole block, once it is certain that each line has as many fields as the header. Otherwise
each line is judged alone, so a bad line never affects others: a quote that is never closed, or does not make a record,
does not swallow the lines after it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.feeds.decode.chunk import Chunk, merge_rejects, reject_frame
from pipeline.feeds.decode.lines import BOM, MAX_LINE_BYTES, MAX_RECORD_LINES, LineBlock
from pipeline.feeds.decode.text import TextLines, decode_lines
from rating.errors import MappingError
from schemas.mapping import Mapping

MAX_COLUMNS = 4096

_NEWLINE, _RETURN = 10, 13

Flags = npt.NDArray[np.bool_]


class DelimitedDecoder:
    """Decodes blocks of one CSV file with the header line `header`; None if the mapping gives the columns.

    Raises MappingError if the header lacks a column that the mapping requires.
    """

    def __init__(self, mapping: Mapping, path: Path, header: bytes | None) -> None:
        form = mapping.format
        self.header = header
        self._encoding = form.encoding
        self._footer = None if form.footer is None else re.compile(form.footer.encode(form.encoding), re.MULTILINE)
        self._delimiter = form.delimiter
        self._quote = form.quote
        names = list(form.columns) if header is None else self._split_header(path, header)
        self._width = len(names)
        self._columns = _needed_columns(mapping, path, names)
        self._schema = {f"column_{index + 1}": pl.String() for index in range(self._width)}

    def decode(self, block: LineBlock) -> Chunk:
        """Decode the records of `block`. Each line becomes a row of raw or a reject, or is blank."""
        if block.too_long:
            rejects = reject_frame([block.first_row], "too_long", "the line is longer than 1 MiB")
            return self._chunk(block, self._empty(), [rejects])
        if self._footer is not None and self._footer.search(block.data):
            return self._decode_around_footers(block, self._footer)
        whole = self._decode_whole(block)
        if whole is not None:
            return self._chunk(block, whole, [])
        return self._decode_by_line(block)

    def _decode_around_footers(self, block: LineBlock, footer: re.Pattern[bytes]) -> Chunk:
        """Decode the block with blank lines in place of its footers, which keeps the numbers of the other lines."""
        lines = block.data.split(b"\n")[:-1]
        found = [number for number, line in enumerate(lines) if footer.search(line)]
        footers = tuple(lines[number].rstrip(b"\r").decode(self._encoding, "replace") for number in found)
        for number in found:
            lines[number] = b""
        blanked = LineBlock(b"".join(line + b"\n" for line in lines), block.first_row, block.lines, block.end)
        return replace(self._decode_by_line(blanked), footers=footers)

    def _chunk(self, block: LineBlock, raw: pl.DataFrame, rejects: list[pl.DataFrame]) -> Chunk:
        return Chunk(raw, merge_rejects(rejects), block.raw_lines, block.end, self.header)

    def _decode_whole(self, block: LineBlock) -> pl.DataFrame | None:
        data = block.data
        if self._encoding != "utf-8" and not data.isascii():
            return None
        if b"\0" in data or (self._quote and self._quote.encode() in data) or not block.is_utf8:
            return None
        delimiters = int(np.count_nonzero(block.bytes_view == ord(self._delimiter)))
        if delimiters != block.lines * (self._width - 1):
            return None
        # If the total is right, a line can have too many fields only if another has too few, and that line's last
        # column is null. So delimiters need to be checked line by line only if the last column has nulls.
        last = self._width - 1
        if last not in self._columns.values() or self._width == 1:
            if not self._delimiters_in_place(block):
                return None
            return self._parse(data, self._numbers(block))
        frame = self._parse(data, self._numbers(block))
        if frame is None:
            return None
        name = next(name for name, index in self._columns.items() if index == last)
        if frame[name].null_count() and not self._delimiters_in_place(block):
            return None
        return frame

    def _delimiters_in_place(self, block: LineBlock) -> bool:
        """Return True if each line has `width - 1` delimiters and none is blank, given that the total is right."""
        if self._width == 1:
            return not bool(self._blank(block.bytes_view, block.starts, block.newlines).any())
        places = np.flatnonzero(block.bytes_view == ord(self._delimiter)).reshape(block.lines, self._width - 1)
        return bool((places[:, 0] >= block.starts).all() and (places[:, -1] < block.newlines).all())

    def _numbers(self, block: LineBlock) -> npt.NDArray[np.int64]:
        return np.arange(block.first_row, block.first_row + block.lines)

    def _parse(self, data: bytes, numbers: npt.NDArray[np.int64], quoted: bool = False) -> pl.DataFrame | None:
        """Parse the needed columns of well-formed lines with these row numbers; None if Polars fails."""
        try:
            frame = pl.read_csv(
                # Polars drops one leading byte order mark. Here it is part of a field, so add another one.
                BOM + data if data.startswith(BOM) else data,
                has_header=False,
                schema=self._schema,
                columns=[f"column_{index + 1}" for index in sorted(self._columns.values())],
                separator=self._delimiter,
                quote_char=self._quote if quoted else None,
                infer_schema=False,
            )
        except (pl.exceptions.PolarsError, ValueError):
            return None
        if frame.height != len(numbers):
            return None
        columns = {name: frame[f"column_{index + 1}"] for name, index in self._columns.items()}
        return pl.DataFrame(columns | {"source_row": pl.Series(numbers)})

    def _decode_by_line(self, block: LineBlock) -> Chunk:
        text = decode_lines(block, self._encoding)
        rejects = list(text.rejects)
        fields = self._field_counts(text)
        good, odd, ragged = self._judge(text, fields)
        joined = self._joined(
            text, good, {row - block.first_row for part in text.rejects for row in part["source_row"]}
        )
        for first, last in joined.items():
            for flags in (good, odd, ragged):
                flags[first : last + 1] = False
        rows: list[pl.DataFrame] = []
        if good.any():
            kept = text.without(np.flatnonzero(~good))
            numbers = np.flatnonzero(good) + block.first_row
            frame = self._parse(kept, numbers, quoted=text.has(self._quote))
            if frame is None:
                odd |= good
            else:
                rows.append(frame)
        if ragged.any():
            lines = np.flatnonzero(ragged)
            messages = [f"found {found} fields; expected {self._width}" for found in fields[lines].tolist()]
            rejects.append(reject_frame(lines + block.first_row, "malformed", messages))
        odd[list(joined)] = True
        if odd.any():
            frame, malformed = self._read_odd(text, np.flatnonzero(odd), block.first_row, joined)
            rows.append(frame)
            rejects.append(malformed)
        raw = pl.concat(rows).sort("source_row") if len(rows) > 1 else rows[0] if rows else self._empty()
        chunk = self._chunk(block, raw, rejects)
        if not joined:
            return chunk
        ends = {first + block.first_row: last + block.first_row for first, last in joined.items()}

        def raw_lines(wanted: list[int]) -> list[bytes]:
            return [b"\n".join(block.raw_lines([*range(row, ends.get(row, row) + 1)])) for row in wanted]

        return replace(chunk, raw_lines=raw_lines)

    def _joined(self, text: TextLines, good: Flags, rejected: set[int]) -> dict[int, int]:
        """Return the last line of each record of several lines by its first line, both from 0.

        Lines that are `rejected` are in no record. Neither are those that are `good` by themselves: the quotes before
        and behind them are two faults, which must not cost them.
        """
        if not text.has(self._quote):
            return {}
        places = np.flatnonzero(text.bytes_view == ord(self._quote))
        counts = np.bincount(np.searchsorted(text.newlines, places), minlength=len(text.newlines))
        odd = np.flatnonzero(counts % 2).tolist()
        found: dict[int, int] = {}
        position = 0
        while position + 1 < len(odd):
            first, last = odd[position : position + 2]
            size = int(text.newlines[last] - text.starts[first])
            alone = good[first : last + 1].any()
            near = not alone and last - first < MAX_RECORD_LINES and size <= MAX_LINE_BYTES
            if near and rejected.isdisjoint(range(first, last + 1)) and self._is_record(text, first, last):
                found[first] = last
                position += 1
            position += 1
        return found

    def _is_record(self, text: TextLines, first: int, last: int) -> bool:
        content = text.data[int(text.starts[first]) : int(text.newlines[last])].decode("utf-8")
        try:
            records = list(self._reader(content))
        except csv.Error:
            return False
        return len(records) == 1 and len(records[0]) == self._width

    def _judge(self, text: TextLines, fields: npt.NDArray[np.int64]) -> tuple[Flags, Flags, Flags]:
        """Return flags for each line: well formed; to be judged by the csv module; wrong number of fields.

        `fields` has the number of fields of each line. Blank lines have no flag.
        """
        blank = self._blank(text.bytes_view, text.starts, text.newlines)
        fits = fields == self._width
        has_quotes = np.zeros_like(blank)
        well_quoted = np.ones_like(blank)
        if text.has(self._quote):
            has_quotes, well_quoted = self._judge_quotes(text)
        good = fits & well_quoted & ~blank
        odd = has_quotes & ~good & ~blank
        return good, odd, ~good & ~odd & ~blank

    def _blank(
        self, view: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], newlines: npt.NDArray[np.int64]
    ) -> Flags:
        lengths = newlines - starts
        blank: Flags = (lengths == 0) | ((lengths == 1) & (view[starts] == _RETURN))
        return blank

    def _field_counts(self, text: TextLines) -> npt.NDArray[np.int64]:
        """Return the number of fields of each line. Delimiters inside quotes do not count."""
        is_delimiter = text.bytes_view == ord(self._delimiter)
        if text.has(self._quote):
            inside = np.bitwise_xor.accumulate((text.bytes_view == ord(self._quote)).view(np.uint8))
            # Restart the parity on each line, so that a line with an odd number of quotes does not affect others.
            before = np.concatenate([np.zeros(1, np.uint8), inside[text.newlines[:-1]]])
            is_delimiter &= inside == np.repeat(before, text.lengths)
        before = np.searchsorted(np.flatnonzero(is_delimiter), text.newlines)
        return np.diff(before, prepend=0) + 1

    def _judge_quotes(self, text: TextLines) -> tuple[Flags, Flags]:
        """Return flags for each line: has quotes; has well-formed quotes.

        Well formed means that each quote opens at the start of a field, closes at its end, or is doubled.
        """
        view = text.bytes_view
        quote, delimiter = ord(self._quote), ord(self._delimiter)
        places = np.flatnonzero(view == quote)
        line = np.searchsorted(text.newlines, places)
        count = np.bincount(line, minlength=len(text.newlines))
        nth = np.arange(len(places)) - (np.cumsum(count) - count)[line]
        before = np.where(places > 0, view[places - 1], _NEWLINE)
        after = view[np.minimum(places + 1, len(view) - 1)]
        after2 = view[np.minimum(places + 2, len(view) - 1)]
        opens = (before == delimiter) | (before == _NEWLINE) | (before == quote)
        closes = (after == delimiter) | (after == _NEWLINE) | (after == quote)
        closes |= (after == _RETURN) & (after2 == _NEWLINE)
        wrong = np.bincount(line[~np.where(nth % 2 == 0, opens, closes)], minlength=len(text.newlines))
        return count > 0, (wrong == 0) & (count % 2 == 0)

    def _read_odd(
        self, text: TextLines, lines: npt.NDArray[np.int64], first_row: int, joined: dict[int, int]
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Parse single lines, and records of several lines, with the csv module. Returns rows and rejects."""
        rows: list[int] = []
        columns: list[list[str]] = [[] for _ in self._columns]
        refused: list[int] = []
        messages: list[str] = []
        indices = list(self._columns.values())
        contents = text.split()
        for line in lines.tolist():
            content = b"\n".join(contents[line : joined.get(line, line) + 1]).decode("utf-8")
            try:
                fields = next(self._reader(content))
                if self._quote and line not in joined:
                    self._require_no_end(content, fields)
            except (csv.Error, StopIteration) as error:
                refused.append(line + first_row)
                messages.append(f"found a line that is not CSV: {error}"[:200])
                continue
            if len(fields) != self._width:
                refused.append(line + first_row)
                messages.append(f"found {len(fields)} fields; expected {self._width}")
                continue
            rows.append(line + first_row)
            for column, index in zip(columns, indices, strict=True):
                column.append(fields[index])
        data = {name: pl.Series(values, dtype=pl.String) for name, values in zip(self._columns, columns, strict=True)}
        frame = pl.DataFrame(data | {"source_row": pl.Series(rows, dtype=pl.Int64)})
        return frame, reject_frame(refused, "malformed", messages)

    def _reader(self, content: str) -> Iterator[list[str]]:
        quote = self._quote or None
        return csv.reader(io.StringIO(content, newline=""), delimiter=self._delimiter, quotechar=quote, strict=True)

    def _require_no_end(self, content: str, fields: list[str]) -> None:
        """Raise csv.Error if the line ends a quoted value that began on another line: it is no record of its own."""
        ends = (field.count(self._quote) % 2 and field.endswith(self._quote) for field in fields)
        if content.count(self._quote) % 2 and any(ends):
            raise csv.Error("a quoted value ends that does not begin on it")

    def _empty(self) -> pl.DataFrame:
        return pl.DataFrame(schema={name: pl.String() for name in self._columns} | {"source_row": pl.Int64()})

    def _split_header(self, path: Path, header: bytes) -> list[str]:
        try:
            text = header.decode("utf-8-sig" if self._encoding == "utf-8" else self._encoding)
            if "\0" in text:
                raise ValueError("it holds a NUL byte")
            names = next(csv.reader([text], delimiter=self._delimiter, quotechar=self._quote or None, strict=True), [])
        except (ValueError, csv.Error) as error:
            raise MappingError(
                f"{path}:1: found a first line that is no CSV header ({error}); expected column names"
            ) from None
        if len(names) > MAX_COLUMNS:
            raise MappingError(f"{path}:1: found {len(names)} columns; expected at most {MAX_COLUMNS}")
        return [name.strip() for name in names]


def _needed_columns(mapping: Mapping, path: Path, names: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for source, required in mapping.sources().items():
        count = names.count(source)
        if count > 1:
            raise MappingError(f"{path}:1: {source}: found {count} columns of this name; expected one")
        if count == 1:
            found[source] = names.index(source)
        elif required:
            shown = ", ".join(names[:40])
            raise MappingError(
                f"{path}:1: {source}: found no such column in {shown!r}; expected it by mapping {mapping.name!r}"
            )
    return found
