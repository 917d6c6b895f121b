"""Decodes Parquet and Arrow IPC batch by batch. Each value becomes the text that a CSV file would have (F2, F5).

Times become ISO 8601, decimals keep their digits, floats become their shortest exact text, a UUID and bytes of a fixed
size are written in hexadecimal. The raw bytes of a row are a JSON object of the columns that the mapping reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.feeds.decode.chunk import Chunk, merge_rejects, reject_frame
from pipeline.feeds.decode.ipc import require_bounded
from pipeline.feeds.decode.lines import KEPT_LINE_BYTES, Position
from pipeline.feeds.decode.shape import MAX_ELEMENTS
from pipeline.feeds.decode.stream import ByteStream
from rating.columnar.sharing import own_frame, shared_table
from rating.errors import MappingError, SourceError
from schemas.mapping import SOURCE_ELEMENT, Mapping

BATCH_ROWS = 1 << 16
MAX_COLUMN_BYTES = 1 << 29
MAX_COLUMN_VALUES = 1 << 26
MAX_UNPACKED_BYTES = 256 << 20
KEPT_CHUNK_BYTES = 64 << 20  # of the rows of a chunk together, if all are rejected
KEPT_ROW_BYTES = 1 << 10  # of a row at least

_ARROW_FILE = b"ARROW1"
_STREAM_IN_FILE = 8  # where the stream begins: after the magic, which is filled up

Ints = npt.NDArray[np.int64]


def columnar_chunks(path: Path, mapping: Mapping, start: Position, chunk_bytes: int) -> Iterator[Chunk]:
    """Yield the rows of a file from row `start.row` on, which is in row group or batch `start.offset`.

    Raises SourceError if the file cannot be read, is damaged, or has a row group too large to decode in bounded memory;
    MappingError if it lacks a column that the mapping requires, or if a column has neither text, numbers nor times.
    """
    rows = max(1, min(BATCH_ROWS, chunk_bytes // 64))
    try:
        for group, first, batch in _batches(path, mapping, start, rows):
            for offset in range(0, batch.num_rows, rows):
                row = first + offset
                if row < start.row:
                    continue
                yield _chunk(path, mapping, batch.slice(offset, rows), row, group)
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError(f"{path}: cannot be read as {mapping.format.type}: {reason[:300]}") from None


def _batches(path: Path, mapping: Mapping, start: Position, rows: int) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """Yield (row group or batch number, number of its first row, rows) from group `start.offset` on."""
    with ByteStream(path) as stream:
        if not stream.peek(1):
            return
        packed = stream.compression is not None
        content: Any = pa.BufferReader(stream.read_all(MAX_UNPACKED_BYTES)) if packed else pa.OSFile(str(path))
        head = content.read(len(_ARROW_FILE))
        content.seek(0)
    with content:
        if mapping.format.type == "parquet":
            yield from _parquet_batches(content, mapping, path, start.offset, rows)
            return
        # A file in the random access form has the stream inside. It is read as such, so that what is read is what was
        # checked, whatever the table of contents at its end says.
        begin = _STREAM_IN_FILE if head == _ARROW_FILE else 0
        content.seek(begin)
        require_bounded(content)
        content.seek(begin)
        reader = pa.ipc.open_stream(content)
        _require(mapping, path, reader.schema)
        first = 1
        for index, batch in enumerate(reader):
            if index >= start.offset:
                batch.validate(full=True)
                yield index, first, batch
            first += batch.num_rows


def _parquet_batches(
    content: Any, mapping: Mapping, path: Path, first_group: int, rows: int
) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    file = pq.ParquetFile(content)
    _require(mapping, path, file.schema_arrow)
    wanted = set(_top_columns(mapping, file.schema_arrow))
    leaves = [file.schema.column(index) for index in range(len(file.schema))]
    used = [index for index, leaf in enumerate(leaves) if leaf.path in wanted or leaf.path.split(".")[0] in wanted]
    # Read text as dictionaries, so that a text that a hostile file repeats takes memory only once.
    texts = [leaves[index].path for index in used if leaves[index].physical_type == "BYTE_ARRAY"]
    content.seek(0)
    file = pq.ParquetFile(content, read_dictionary=texts)
    first = 1
    for group in range(file.num_row_groups):
        facts = file.metadata.row_group(group)
        if group >= first_group:
            for index in used:
                column = facts.column(index)
                if column.total_uncompressed_size > MAX_COLUMN_BYTES or column.num_values > MAX_COLUMN_VALUES:
                    raise SourceError(
                        f"{path}: row group {group} holds {column.num_values} values, "
                        f"{column.total_uncompressed_size} bytes, of {column.path_in_schema}; write smaller row groups"
                    )
            row = first
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=sorted(wanted)):
                yield group, row, batch
                row += batch.num_rows
        first += facts.num_rows


def _top_columns(mapping: Mapping, schema: pa.Schema) -> list[str]:
    names = set(schema.names)
    found = [path if path in names else path.split(".")[0] for path in mapping.sources()]
    if mapping.format.explode:
        found.append(mapping.format.explode.split(".")[0])
    return [name for name in dict.fromkeys(found) if name in names]


def _require(mapping: Mapping, path: Path, schema: pa.Schema) -> None:
    for source, required in mapping.sources().items():
        if required and not _has(schema, source, mapping.format.explode):
            shown = ", ".join(schema.names[:40])
            raise MappingError(
                f"{path}: {source}: found no such column in {shown!r}; expected it by mapping {mapping.name!r}"
            )


def _has(schema: pa.Schema, source: str, explode: str) -> bool:
    if schema.get_field_index(source) >= 0:
        return True
    steps = source.split(".")
    index = schema.get_field_index(steps[0])
    if index < 0:
        return False
    kind = schema.field(index).type
    for depth, step in enumerate(steps[1:], 1):
        if explode == ".".join(steps[:depth]) and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            kind = kind.value_type
        if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
            return False
        kind = kind.field(step).type
    return True


def _chunk(path: Path, mapping: Mapping, batch: pa.RecordBatch, first: int, group: int) -> Chunk:
    count = batch.num_rows
    rows = np.arange(first, first + count)
    rejects: list[pl.DataFrame] = []
    explode = mapping.format.explode
    outer, within, elements = np.arange(count), np.zeros(count, np.int64), None
    if explode and _has(batch.schema, explode, ""):
        outer, within, elements, long = _explode(_column(batch, explode), count)
        rejects.append(reject_frame(rows[long], "malformed", f"found more than {MAX_ELEMENTS} elements in {explode}"))
    columns: dict[str, pl.Series] = {}
    bad = np.zeros(len(outer), np.bool_)
    for source in mapping.sources():
        if not _has(batch.schema, source, explode):
            continue
        if elements is not None and source.startswith(explode + "."):
            values = _inside(elements, source[len(explode) + 1 :].split("."))
            text, wrong = _as_text(path, source, values, mapping.format.binary)
        else:
            text, wrong = _as_text(path, source, _column(batch, source), mapping.format.binary)
            text, wrong = (text.gather(outer), wrong[outer]) if elements is not None else (text, wrong)
        columns[source] = text
        bad |= wrong
    if explode:
        columns[SOURCE_ELEMENT] = pl.Series(within, dtype=pl.Int64).cast(pl.String)
    columns["source_row"] = pl.Series(rows[outer], dtype=pl.Int64)
    whole = pl.DataFrame(columns)
    raw = whole
    if bad.any():
        wrong_rows = np.unique(rows[outer[bad]])
        said = 'found bytes that are not UTF-8; expected text, or binary = "hex" in [format] of the mapping'
        rejects.append(reject_frame(wrong_rows, "encoding", said))
        raw = whole.filter(~pl.col("source_row").is_in(wrong_rows.tolist()))
    end = Position(group, first + count)
    lines = shared_table(whole)  # the folding thread also calls raw_lines
    return Chunk(raw, merge_rejects(rejects), lambda wanted: _rows_as_json(lines, wanted, explode), end)


def _column(batch: pa.RecordBatch, path: str) -> pa.Array:
    if path in batch.schema.names:
        return batch.column(path)
    first, *rest = path.split(".")
    return _inside(batch.column(first), rest)


def _inside(array: pa.Array, steps: list[str]) -> pa.Array:
    for step in steps:
        array = pc.struct_field(array, step)
    return array


def _explode(lists: pa.Array, count: int) -> tuple[Ints, Ints, pa.Array, Ints]:
    """Return the record, index and value of each element, and the records that have too many elements."""
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        return np.arange(count), np.zeros(count, np.int64), None, np.zeros(0, np.int64)
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(counts) - counts
    long = np.flatnonzero(counts > MAX_ELEMENTS)
    kept = np.where(counts > MAX_ELEMENTS, 0, np.maximum(counts, 1))
    outer = np.repeat(np.arange(count), kept)
    within = np.arange(len(outer)) - np.repeat(np.cumsum(kept) - kept, kept)
    taken = pa.array(starts[outer] + within, mask=counts[outer] == 0)
    return outer, within, lists.flatten().take(taken), long


def _as_text(path: Path, source: str, array: pa.Array, binary: str) -> tuple[pl.Series, npt.NDArray[np.bool_]]:
    """Return the values as text, and flags for values that are not UTF-8. `binary` says how bytes are written."""
    kind = array.type
    fine = np.zeros(len(array), np.bool_)
    if isinstance(kind, pa.BaseExtensionType):
        text, wrong = _as_text(path, source, array.storage, binary)
        return (_uuids(text) if kind.extension_name == "arrow.uuid" else text), wrong
    if pa.types.is_run_end_encoded(kind):
        return _as_text(path, source, pc.run_end_decode(array), binary)
    if pa.types.is_dictionary(kind):
        values, wrong = _as_text(path, source, array.dictionary, binary)
        index = pl.Series(pl.from_arrow(array.indices)).cast(pl.Int64)
        if not len(values):
            return pl.Series([None], dtype=pl.String).new_from_index(0, len(array)), fine
        at_fault = pl.Series(wrong).gather(index).fill_null(False).to_numpy()
        return values.gather(index), at_fault
    if pa.types.is_null(kind):
        return pl.Series([None], dtype=pl.String).new_from_index(0, len(array)), fine
    if pa.types.is_fixed_size_binary(kind) or (binary == "hex" and _is_bytes(kind)):
        return pl.Series(pl.from_arrow(array.cast(pa.large_binary()))).bin.encode("hex"), fine
    if _is_bytes(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        try:
            return pl.Series(pl.from_arrow(array.cast(pa.large_binary()).cast(pa.large_string()))), fine
        except pa.ArrowInvalid:
            return _decode_values(array)
    if pa.types.is_decimal(kind):
        wide = array if pa.types.is_decimal256(kind) else array.cast(pa.decimal256(76, kind.scale))
        return pl.Series(pl.from_arrow(wide.cast(pa.large_string()))), fine
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        if pa.types.is_float16(kind):
            array = array.cast(pa.float32())
        return pl.Series(pl.from_arrow(array)).cast(pl.String), fine
    if pa.types.is_timestamp(kind):
        moment = pl.Series(pl.from_arrow(array.cast(pa.timestamp("us", kind.tz), safe=False)))
        if kind.tz is not None:
            return moment.dt.convert_time_zone("UTC").dt.to_string("%Y-%m-%dT%H:%M:%S%.6fZ"), fine
        return moment.dt.to_string("%Y-%m-%dT%H:%M:%S%.6f"), fine
    if pa.types.is_date(kind):
        return pl.Series(pl.from_arrow(array.cast(pa.date32()))).dt.to_string("%Y-%m-%d"), fine
    raise MappingError(f"{path}: {source}: found a column of {kind}; expected text, numbers, times, UUIDs or bytes")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _uuids(digits: pl.Series) -> pl.Series:
    """Return hexadecimal digits in the five groups of a UUID."""
    groups = [digits.str.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12))]
    named = [group.alias(f"group_{number}") for number, group in enumerate(groups)]
    return pl.DataFrame(named).select(pl.concat_str(pl.all(), separator="-")).to_series()


def _decode_values(array: pa.Array) -> tuple[pl.Series, npt.NDArray[np.bool_]]:
    texts: list[str | None] = []
    wrong = np.zeros(len(array), np.bool_)
    for index, value in enumerate(array.cast(pa.large_binary()).to_pylist()):
        try:
            texts.append(None if value is None else value.decode("utf-8"))
        except UnicodeDecodeError:
            texts.append(None)
            wrong[index] = True
    return pl.Series(texts, dtype=pl.String), wrong


def _rows_as_json(rows: pa.Table, wanted: list[int], explode: str) -> list[bytes]:
    """Return the mapped columns of source rows as nested JSON objects, which the same paths can read again.

    A row of more than KEPT_LINE_BYTES is cut off there, and earlier if the rows together are too many: a file may name
    one long text in every row. What is cut off is no JSON, so it is not replayed by mistake.
    """
    kept = max(KEPT_ROW_BYTES, min(KEPT_LINE_BYTES, KEPT_CHUNK_BYTES // max(1, len(wanted))))
    found: dict[int, dict[str, Any]] = {row: {} for row in wanted}
    frame = own_frame(rows).filter(pl.col("source_row").is_in(wanted))
    for record in frame.with_columns(pl.col(pl.String).str.head(kept)).iter_rows(named=True):
        target = found[record["source_row"]]
        element: dict[str, Any] = {}
        for path, value in record.items():
            if path in ("source_row", SOURCE_ELEMENT) or value is None:
                continue
            if explode and path.startswith(explode + "."):
                _put(element, path[len(explode) + 1 :].split("."), value)
            else:
                _put(target, path.split("."), value)
        if element:
            *before, last = explode.split(".")
            holder = target
            for step in before:
                holder = holder.setdefault(step, {})
            holder.setdefault(last, []).append(element)
    return [msgspec.json.encode(found[row])[:kept] for row in wanted]


def _put(target: dict[str, Any], steps: list[str], value: str) -> None:
    for step in steps[:-1]:
        inner = target.setdefault(step, {})
        if not isinstance(inner, dict):
            return
        target = inner
    target[steps[-1]] = value
