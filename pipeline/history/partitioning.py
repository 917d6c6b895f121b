"""Splits rated rows by (cycle, day), the partitions of the history. Each partition keeps the order of its rows (Q5).

The plain version, `Table.take` of each partition's rows, takes 0.6 s a million rows (docs/decisions/0022). Instead,
long runs of one day are sliced without copying, and only short runs are copied. tests/unit/test_land.py compares the
result with `Table.take`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]

# Runs of at least this many rows of one partition are sliced without copying; shorter ones are copied (gathered).
LONG_RUN = 512


def by_cycle_and_day(table: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    """Yield the rows of a RATED table as (cycle, ISO day, rows), the pieces of each partition in row order.

    If the rows are roughly in order of time, only those around midnight are copied.
    """
    if table.num_rows == 0:
        return
    table = table.combine_chunks()
    cycles = table.column("cycle").chunk(0)
    codes = cycles.indices.to_numpy().astype(np.int64)
    days = table.column("day").chunk(0).cast(pa.int32()).to_numpy()
    key = (codes << 32) + days
    starts = np.concatenate(([0], np.flatnonzero(key[1:] != key[:-1]) + 1))
    lengths = np.diff(np.append(starts, len(key)))
    partitions, partition_of_run = np.unique(key[starts], return_inverse=True)
    names = [
        (cycles.dictionary[int(partition >> 32)].as_py(), str(np.datetime64(int(partition & 0xFFFFFFFF), "D")))
        for partition in partitions
    ]
    long_runs = lengths >= LONG_RUN
    gathered, rows = _gathered(table, partition_of_run, lengths, long_runs)
    for number in sorted(range(len(names)), key=names.__getitem__):
        mine = np.flatnonzero(long_runs & (partition_of_run == number))
        first, last = np.searchsorted(rows.partition, [number, number + 1])
        cuts = first + np.searchsorted(rows.row[first:last], starts[mine])
        at = first
        for run, cut in zip(mine.tolist(), cuts.tolist(), strict=True):
            if cut > at:
                yield *names[number], gathered.slice(at, cut - at)
            yield *names[number], table.slice(int(starts[run]), int(lengths[run]))
            at = cut
        if last > at:
            yield *names[number], gathered.slice(at, last - at)


class _RowOrder:
    """Rows in order of (partition, row), parallel to a gathered table."""

    def __init__(self, partition: Ints, row: Ints) -> None:
        self.partition = partition
        self.row = row


def _gathered(
    table: pa.Table, partition_of_run: Ints, lengths: Ints, long_runs: npt.NDArray[np.bool_]
) -> tuple[pa.Table, _RowOrder]:
    """Copy the rows of short runs, in order of (partition, row)."""
    short = np.repeat(~long_runs, lengths)
    row = np.flatnonzero(short)
    if len(row) == 0:
        return table.slice(0, 0), _RowOrder(row, row)
    partition = np.repeat(partition_of_run[~long_runs], lengths[~long_runs])
    if int(partition.max()) < 1 << 16:
        order = np.argsort(partition.astype(np.uint16), kind="stable")
    else:
        order = np.argsort(partition, kind="stable")
    row, partition = row[order], partition[order]
    return gather(table, row), _RowOrder(partition, row)


def gather(table: pa.Table, rows: Ints) -> pa.Table:
    """Return these rows of a table, in this order. Each column must have one chunk.

    Several times as fast as `Table.take`.
    """
    return pa.Table.from_arrays([_gather(column.chunk(0), rows) for column in table.columns], schema=table.schema)


def _gather(column: pa.Array, rows: Ints) -> pa.Array:
    kind = column.type
    if column.null_count == len(column):
        return pa.nulls(len(rows), kind)
    if column.null_count == 0:
        if pa.types.is_dictionary(kind):
            return pa.DictionaryArray.from_arrays(_gather(column.indices, rows), column.dictionary)
        if pa.types.is_integer(kind):
            return pa.array(column.to_numpy()[rows], kind)
        if pa.types.is_timestamp(kind):
            return _gather(column.view(pa.int64()), rows).view(kind)
        if pa.types.is_date32(kind):
            return _gather(column.view(pa.int32()), rows).view(kind)
    return column.take(pa.array(rows))
