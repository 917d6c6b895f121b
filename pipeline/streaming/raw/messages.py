"""Messages of `usage.raw`: chunks of files, single records and markers; how files become chunks, and how all are read.

What a message becomes depends on nothing but the message and its mapping. One that cannot be read is a reject of its
own (F5), never an exception.
"""

from pipeline.streaming.raw.chunks import chunks_of
from pipeline.streaming.raw.headers import RawMessage, marker
from pipeline.streaming.raw.reading import Origin, Reading, kept_line, origin_of

__all__ = ["Origin", "RawMessage", "Reading", "chunks_of", "kept_line", "marker", "origin_of"]
