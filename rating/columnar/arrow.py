"""Read numbers from data frames, and make Arrow columns for the tables that leave the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rating.columnar.key_index import Ints


def has(rows: pl.DataFrame, name: str) -> bool:
    """Return True if a data frame has the column, and the column has a value."""
    return name in rows.columns and rows[name].null_count() < len(rows)


def numbers(rows: pl.DataFrame, name: str, null: int) -> npt.NDArray[Any]:
    """Return a column of whole numbers or instants as integers, [n], with `null` for null.

    If the data frame has no such column, every element is `null`. If the column has no nulls, the result is read-only
    and shares its memory.
    """
    if not has(rows, name):
        return np.full(len(rows), null, np.int64)
    column = rows[name]
    if not column.null_count():
        values = column.to_numpy()
        return values.view(np.int64) if values.dtype.kind == "M" else values
    held = column.to_arrow()  # calls of Arrow cost less than those of Polars
    whole = held.view(pa.int64()) if pa.types.is_temporal(held.type) else held
    return np.asarray(whole.fill_null(null))


def words(codes: Ints, texts: Sequence[str]) -> pa.Array:
    """Return a dictionary column of the distinct `texts` by code; -1 is null."""
    indices = codes.astype(np.int32)
    indices = pa.array(indices, mask=indices < 0) if indices.min(initial=0) < 0 else pa.array(indices)
    return pa.DictionaryArray.from_arrays(indices, pa.array(texts, pa.string()), safe=False)


def spelled(codes: Ints, texts: Sequence[str | None]) -> pa.Array:
    """Return a dictionary column of `texts` by code. Texts may repeat; None and the empty text are null."""
    distinct = sorted({text for text in texts if text})
    place: dict[str | None, int] = {text: row for row, text in enumerate(distinct)}
    return words(np.array([place.get(text, -1) for text in texts], np.int64)[codes], distinct)


def text(column: pl.Series) -> pa.Array:
    """Return a column as plain Arrow strings."""
    return column.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string())


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary type, and any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def table_of(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return the columns of a data frame that `schema` has, as a table of this schema."""
    table = frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
    plain = {field.name: table[field.name].cast(plain_type(field.type)) for field in schema}
    return pa.table(plain).cast(schema)


def known(values: Ints, null: int) -> pa.Array:
    """Return an int64 column in which values equal to `null` are null."""
    missing = values == null
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def instant(us: int, count: int) -> pa.Array:
    """Return a column that repeats one instant `count` times; `us` is in microseconds since 1970 UTC."""
    return pa.array(np.full(count, us)).view(pa.timestamp("us", "UTC"))
