"""Decodes feed files into chunks of raw text columns (F2, F5): CSV, NDJSON, JSON, Parquet, Arrow IPC.

Text may be plain, gzip or zstd. A record that cannot be decoded is a reject of its chunk, never an exception; a file
that cannot be read at all is a SourceError, a file that lacks what the mapping reads is a MappingError. The same file,
start and chunk size always give the same chunks, so that reading can go on at any chunk's end.
"""

from pipeline.feeds.decode.chunk import Chunk
from pipeline.feeds.decode.lines import Position
from pipeline.feeds.decode.source import CHUNK_BYTES, open_source

__all__ = ["CHUNK_BYTES", "Chunk", "Position", "open_source"]
