"""Messages of `usage.raw`: chunks of files, single records and markers.

How files become chunks, and how messages are read. The result of a message depends on nothing but the message and its
mapping. A message that cannot be read becomes one rejected record, never an exception (F5).
"""

from pipeline.streaming.raw.bounds import kept_line
from pipeline.streaming.raw.chunks import chunks_of
from pipeline.streaming.raw.headers import RawMessage, marker
from pipeline.streaming.raw.reading import Origin, Reading, origin_of

__all__ = ["Origin", "RawMessage", "Reading", "chunks_of", "kept_line", "marker", "origin_of"]
