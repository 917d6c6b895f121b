"""Decodes feed files into chunks of raw text columns (F2, F5): CSV, NDJSON, JSON, Parquet, Arrow IPC.

Text may be plain or compressed with gzip or zstd. A record that cannot be decoded becomes a reject of its chunk, never
an exception. A file that cannot be read raises SourceError; a file that lacks a column that the mapping requires raises
MappingError. The same file, start and chunk size always give the same chunks, so reading can resume at the end of any
chunk.
"""

from pipeline.feeds.decode.chunk import Chunk
from pipeline.feeds.decode.lines import Position
from pipeline.feeds.decode.source import CHUNK_BYTES, open_source

__all__ = ["CHUNK_BYTES", "Chunk", "Position", "open_source"]
