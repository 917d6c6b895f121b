"""Reads the decoded rows of a chunk, an Arrow stream, without trusting it.

Whoever may write to `usage.raw` may send any bytes. So types, sizes and order are checked before anything is unpacked,
and before Polars, which ends the process for some types, sees the table.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.streaming.raw.headers import MESSAGE, RAW, REASON
from schemas.choices import REASONS

_MOST_BATCHES: Final = 1024
_MOST_COLUMNS: Final = 4096
_MOST_ROWS: Final = 1 << 22
_END_OF_ROWS: Final = 10**18  # row numbers are smaller, as those of the headers
# Numbers of fields in the tables Message and RecordBatch of Arrow's format (Message.fbs).
_HEADER, _CUSTOM_METADATA, _COMPRESSION = 2, 4, 3


def rows_of(content: bytes) -> pl.DataFrame:
    """Return the rows: `source_row` (int64, ascending from 0), RAW (binary), all other columns text.

    The first row of each source row has raw bytes, and a row with a REASON has one of REASONS and a MESSAGE. Raises
    ValueError, or pyarrow's errors, if the content is anything else. Takes no more memory than some times the content.
    """
    table = _table_of(content)
    numbers = table["source_row"].combine_chunks().to_numpy()
    if len(numbers) and (numbers[0] < 0 or numbers[-1] >= _END_OF_ROWS or (numbers[1:] < numbers[:-1]).any()):
        raise ValueError("found rows whose numbers do not ascend from 0; expected them in the order of their source")
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    if table[RAW].take(pa.array(first)).null_count:
        raise ValueError(f"found a row without {RAW}; expected the raw bytes of each row of the source")
    if (REASON in table.column_names) != (MESSAGE in table.column_names):
        raise ValueError(f"found one of {REASON} and {MESSAGE}; expected both or none")
    if REASON in table.column_names:
        known = pa.array(sorted(REASONS), table[REASON].type)
        unknown = pc.and_(pc.is_valid(table[REASON]), pc.invert(pc.is_in(table[REASON], value_set=known)))
        if pc.any(unknown).as_py() or pc.any(pc.and_(pc.is_valid(table[REASON]), pc.is_null(table[MESSAGE]))).as_py():
            raise ValueError(f"found a {REASON} that Weir does not know, or that has no {MESSAGE}; expected both")
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _table_of(content: bytes) -> pa.Table:
    """Return the table of a stream with the expected types, validated. It shares the memory of the content."""
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(content))
    try:
        message = reader.read_next_message()
    except StopIteration:
        raise ValueError("found no Arrow stream; expected rows") from None
    if message.type != "schema":
        raise ValueError(f"found {message.type} at the begin of rows; expected an Arrow schema")
    schema = pa.ipc.read_schema(message)
    _require_types(schema)
    batches: list[pa.RecordBatch] = []
    for message in reader:
        if message.type != "record batch" or len(batches) == _MOST_BATCHES or _unpacks(message.metadata):
            raise ValueError(
                f"found packed buffers, dictionaries or more than {_MOST_BATCHES} batches in rows; expected plain ones"
            )
        batches.append(pa.ipc.read_record_batch(message, schema))
    table = pa.Table.from_batches(batches, schema).replace_schema_metadata(None)
    if table.num_rows > _MOST_ROWS:
        raise ValueError(f"found {table.num_rows:,} rows; expected at most {_MOST_ROWS:,} in a message")
    table.validate(full=True)
    if table["source_row"].null_count:
        raise ValueError("found rows without source_row; expected it in each")
    return table


def _require_types(schema: pa.Schema) -> None:
    """Raise ValueError unless the columns are those of rows, each once."""
    names = schema.names
    if not 2 <= len(names) <= _MOST_COLUMNS or len(set(names)) < len(names) or not {"source_row", RAW} <= set(names):
        raise ValueError(f"found {len(names)} columns; expected source_row, {RAW} and others, each once")
    for field in schema:
        allowed = _ALLOWED.get(field.name, _TEXTS)
        if field.type not in allowed:
            raise ValueError(
                f"found column {field.name[:60]!r} of type {str(field.type)[:60]}; expected source_row as int64, {RAW} "
                "as binary and all others as text"
            )


_TEXTS: Final = (pa.string(), pa.large_string())
_ALLOWED: Final[dict[str, tuple[pa.DataType, ...]]] = {
    "source_row": (pa.int64(),),
    RAW: (pa.binary(), pa.large_binary()),
}


def _unpacks(metadata: pa.Buffer) -> bool:
    """Return True if reading the record batch would unpack buffers, to any size.

    Looks at the Flatbuffers table itself, because pyarrow does not tell. Raises ValueError if it is damaged.
    """
    view = memoryview(metadata)
    try:
        (root,) = struct.unpack_from("<I", view, 0)
        header = _field(view, root, _HEADER)
        if not header or _field(view, root, _CUSTOM_METADATA):  # the first versions named the codec there
            return True
        (start,) = struct.unpack_from("<I", view, header)
        return _field(view, header + start, _COMPRESSION) != 0
    except struct.error as error:
        raise ValueError(f"found damaged rows ({error}); expected an Arrow stream") from None


def _field(view: memoryview, table: int, number: int) -> int:
    """Return the place of a field of a Flatbuffers table, or 0 if the table lacks it."""
    (back,) = struct.unpack_from("<i", view, table)
    fields = table - back
    if fields < 0:
        raise struct.error("a table outside of the message")
    (size,) = struct.unpack_from("<H", view, fields)
    slot = 4 + 2 * number
    if slot + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", view, fields + slot)
    return table + offset if offset else 0
