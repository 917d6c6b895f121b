"""Hand columns from one thread to another: as Arrow, because a Polars object belongs to the thread that made it.

A Polars frame, series or lazy frame has a lock of its own. A thread that waits for this lock while it has the
interpreter, and a thread that has this lock and waits for the interpreter, wait for each other for ever. So no Polars
object is touched by two threads, not even one after the other (docs/decisions/0050). What crosses from one thread to
another is an Arrow table or array, or a NumPy array: these never change and have no lock.

`shared_*` makes what may cross, `own_*` makes a Polars object for the calling thread. Neither copies the values.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

_SAME_BUFFERS = pl.CompatLevel.newest()  # text as views: the layout that Polars has in memory


def shared_table(frame: pl.DataFrame) -> pa.Table:
    """The frame as an Arrow table over the same buffers, for any thread. Call it in the thread that owns the frame."""
    return frame.to_arrow(compat_level=_SAME_BUFFERS)


def shared_column(column: pl.Series) -> pa.Array:
    """The series as an Arrow array over the same buffers, for any thread. Call it in the thread that owns it."""
    return column.to_arrow(compat_level=_SAME_BUFFERS)


def own_frame(table: pa.Table) -> pl.DataFrame:
    """The table as a data frame of the calling thread."""
    frame = pl.from_arrow(table, rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    return frame


def own_column(column: pa.Array | pa.ChunkedArray) -> pl.Series:
    """The array as a series of the calling thread."""
    return pl.Series(pl.from_arrow(column, rechunk=False))
