"""Reads the chunks of feed files, decoded and mediated, ahead of the fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline.embedded.progress import Progress
from pipeline.embedded.renumbered import renumbered, rows_of
from pipeline.feeds.batch import batch_of
from pipeline.feeds.decode import Position, open_source
from pipeline.feeds.footer import require_footer
from pipeline.feeds.lookups import with_lists
from pipeline.feeds.prefetch import prefetch
from pipeline.feeds.source_file import Source
from pipeline.history.rejects import reject_table
from rating.columnar.sharing import own_frame, shared_table
from rating.dedupe.digests import Prints
from rating.mediation.records import mediate
from schemas.mapping import Mapping
from schemas.usage import UsageBatch


@dataclass(frozen=True)
class Reading:
    """A chunk of a file after mediation, made in the reading thread for the thread that folds.

    `usage` has the columns of USAGE_SCHEMA. `rejected` are the records that mediation rejected, with the columns of
    schemas.tables.REJECTED. `raw_lines` and `header` are those of the chunk (pipeline.feeds.decode.Chunk).
    """

    start: Position
    end: Position
    feed: str
    source: str
    received_at_us: int
    cumulative: bool
    counter_bits: int
    labels: tuple[tuple[str, str], ...]
    usage: pa.Table
    prints: Prints
    rejected: pa.Table
    raw_lines: Callable[[list[int]], list[bytes]]
    header: bytes | None

    def batch(self) -> UsageBatch:
        """Return the usage as a batch for the calling thread."""
        return UsageBatch(
            self.feed,
            self.source,
            self.received_at_us,
            self.cumulative,
            own_frame(self.usage),
            counter_bits=self.counter_bits,
            labels=self.labels,
        )


def read_usage(
    source: Source, mapping: Mapping, received_at_us: int, start: Position | None, chunk_bytes: int
) -> Iterator[Reading]:
    """Decode and mediate a feed file, chunk by chunk."""
    path, begin = Path(source.path), start or Position()
    mapping = with_lists(mapping, path.parent)
    if start is None and not source.rows:
        require_footer(path, mapping)
    chunks = open_source(path, mapping, start=start, chunk_bytes=chunk_bytes)
    if source.rows:
        first = 2 if mapping.format.type == "csv" and mapping.format.header else 1
        chunks = renumbered(chunks, rows_of(Path(source.rows)), first)
    for chunk in chunks:
        usage, rejects = mediate(chunk.raw, mapping, path.name)
        if len(chunk.rejects):
            rejects = pl.concat([chunk.rejects, rejects]).sort("source_row", maintain_order=True)
        batch = batch_of(mapping, source.name, received_at_us, usage)
        yield Reading(
            start=begin,
            end=chunk.end,
            feed=batch.feed,
            source=batch.source,
            received_at_us=received_at_us,
            cumulative=batch.cumulative,
            counter_bits=batch.counter_bits,
            labels=batch.labels,
            usage=shared_table(usage),
            prints=Prints.of(batch),
            rejected=reject_table(rejects, chunk, mapping.name, source, received_at_us),
            raw_lines=chunk.raw_lines,
            header=chunk.header,
        )
        begin = chunk.end


class Reader:
    """Decodes the chunks of an ingest one after another, ahead of the fold, in the reading thread."""

    def __init__(self, mapping: Mapping, chunk_bytes: int) -> None:
        self._mapping = mapping
        self._chunk_bytes = chunk_bytes
        self._next: tuple[int, int, int] | None = None
        self._readings: Iterator[Reading] = iter(())

    def next(self, progress: Progress) -> Reading | None:
        """Return the reading at the position of the ingest; None at the end of its file.

        Raises the exceptions of reading the file.
        """
        at = (progress.file, progress.offset, progress.row)
        if self._next != at:
            source = progress.sources[progress.file]
            start = Position(progress.offset, progress.row) if progress.row else None
            self._readings = prefetch(read_usage(source, self._mapping, progress.as_of_us, start, self._chunk_bytes))
        reading = next(self._readings, None)
        self._next = None if reading is None else (progress.file, reading.end.offset, reading.end.row)
        return reading
