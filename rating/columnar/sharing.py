"""Pass columns from one thread to another: as Arrow, because a Polars object belongs to the thread that made it.

A Polars data frame, series or lazy frame has a lock of its own. One thread may hold the interpreter and wait for this
lock, while another has the lock and waits for the interpreter: a deadlock. So no Polars object is used by two threads,
not even one after the other (docs/decisions/0050). Only Arrow tables, Arrow arrays and NumPy arrays pass from one
thread to another: they never change and have no lock.

`shared_*` makes an Arrow object for any thread, and `own_*` makes a Polars object for the calling thread. Neither
copies the values.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

_SAME_BUFFERS = pl.CompatLevel.newest()  # text as views, which is the layout of Polars in memory


def shared_table(frame: pl.DataFrame) -> pa.Table:
    """Return a frame as an Arrow table over the same buffers, for any thread. Call it in the frame's own thread."""
    return frame.to_arrow(compat_level=_SAME_BUFFERS)


def shared_column(column: pl.Series) -> pa.Array:
    """Return a series as an Arrow array over the same buffers, for any thread. Call it in the series' own thread."""
    return column.to_arrow(compat_level=_SAME_BUFFERS)


def own_frame(table: pa.Table) -> pl.DataFrame:
    """Return a table as a data frame of the calling thread."""
    frame = pl.from_arrow(table, rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    return frame


def own_column(column: pa.Array | pa.ChunkedArray) -> pl.Series:
    """Return an array as a series of the calling thread."""
    return pl.Series(pl.from_arrow(column, rechunk=False))
