"""What the messages of an Arrow stream say of themselves, read before Arrow unpacks them.

Buffers inside a message may be compressed, so a few hundred bytes can unpack to gigabytes. Each compressed buffer
begins with its size unpacked, which Arrow believes and allocates. Columns without buffers (of nothing, or of structs
without fields) may declare any number of rows. Arrow has no limit for either, so this module adds them up: it reads the
message header, a FlatBuffer (https://arrow.apache.org/docs/format/Columnar.html), in which `struct` checks offsets.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import pyarrow as pa

MAX_BATCH_BYTES: Final = 512 << 20
MAX_BATCH_ROWS: Final = 1 << 26

_DICTIONARY, _RECORDS = 2, 3  # of the union MessageHeader
_NOT_COMPRESSED: Final = -1


def require_bounded(content: Any) -> None:
    """Require that every batch of an Arrow stream unpacks to a bounded size, and all its dictionaries together.

    `content` is a file of pyarrow at the beginning of the stream.

    Raises ValueError if one declares more, or is damaged; pa.ArrowException if a message cannot be read.
    """
    messages = pa.ipc.MessageReader.open_stream(content)
    dictionary_bytes = 0
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        try:
            kind, size_bytes = _declared(message)
        except (struct.error, IndexError) as damage:
            raise ValueError(f"a message is damaged: {damage}") from damage
        dictionary_bytes += size_bytes if kind == _DICTIONARY else 0
        if max(size_bytes, dictionary_bytes) > MAX_BATCH_BYTES:
            raise ValueError(
                f"a batch declares {size_bytes} bytes unpacked, the dictionaries so far {dictionary_bytes}; expected "
                f"at most {MAX_BATCH_BYTES} of each: write smaller batches"
            )


def _declared(message: pa.Message) -> tuple[int, int]:
    """Return the kind of a message and the bytes that its buffers declare to unpack to."""
    facts = _Table.root(bytes(message.metadata))
    kind = facts.number(1, "<B")
    header = facts.table(2)
    if kind == _DICTIONARY and header is not None:
        header = header.table(1)
    if header is None or kind not in (_DICTIONARY, _RECORDS):
        return kind, 0
    rows = [header.number(0, "<q"), *(length for length, _ in header.structs(1, "<qq"))]
    if not 0 <= min(rows) <= max(rows) <= MAX_BATCH_ROWS:
        raise ValueError(f"a batch declares {max(rows)} rows; expected at most {MAX_BATCH_ROWS}: write smaller batches")
    compressed = header.table(3) is not None
    body = memoryview(message.body) if message.body is not None else memoryview(b"")
    total = 0
    for offset, length in header.structs(2, "<qq"):
        if not (0 <= offset and 0 <= length and offset + length <= len(body)):
            raise ValueError("a message is damaged: a buffer lies outside its body")
        size = length
        if compressed and length:
            (size,) = struct.unpack_from("<q", body, offset)
            size = length if size == _NOT_COMPRESSED else size
        if size < 0:
            raise ValueError("a message is damaged: a buffer of a negative size")
        total += size
    return kind, total


class _Table:
    """A table of a FlatBuffer: fields by their number, each absent or at an offset."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content = content
        self._at = at
        (back,) = struct.unpack_from("<i", content, at)
        self._fields = at - back
        if self._fields < 0:
            raise ValueError("a message is damaged: a table lies before its header")
        (self._size,) = struct.unpack_from("<H", content, self._fields)

    @classmethod
    def root(cls, content: bytes) -> _Table:
        """Return the outermost table."""
        return cls(content, *struct.unpack_from("<I", content, 0))

    def number(self, field: int, form: str) -> int:
        """Return a number; 0 if the field is absent."""
        at = self._place(field)
        return 0 if at is None else int(struct.unpack_from(form, self._content, at)[0])

    def table(self, field: int) -> _Table | None:
        """Return an inner table, or None."""
        at = self._place(field)
        return None if at is None else _Table(self._content, self._follow(at))

    def structs(self, field: int, form: str) -> list[tuple[int, ...]]:
        """Return a vector of structs."""
        at = self._place(field)
        if at is None:
            return []
        start = self._follow(at)
        (count,) = struct.unpack_from("<I", self._content, start)
        content = self._content[start + 4 : start + 4 + count * struct.calcsize(form)]
        if len(content) != count * struct.calcsize(form):
            raise ValueError("a message is damaged: a vector ends beyond its header")
        return list(struct.iter_unpack(form, content))

    def _place(self, field: int) -> int | None:
        if 4 + 2 * field + 2 > self._size:
            return None
        (offset,) = struct.unpack_from("<H", self._content, self._fields + 4 + 2 * field)
        return self._at + offset if offset else None

    def _follow(self, at: int) -> int:
        return at + int(struct.unpack_from("<I", self._content, at)[0])
