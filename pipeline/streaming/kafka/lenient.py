"""Lets the Kafka client read messages whose header names are not UTF-8.

Kafka allows any bytes there. aiokafka raises for such a message each time it comes to it, so that nothing behind it is
ever read. Here its header names are read with replacement signs instead. All consumers of the process read so, those of
Faust as well, because all of them are aiokafka's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_AT: Final = 8  # of a batch in its bytes; the length counts what follows it
_BEFORE: Final = 12
_MAGIC_AT: Final = 16
_MAGIC: Final = 2  # the only layout that has headers


class LenientRecords:
    """The record batches of an answer to a fetch, as `MemoryRecords` reads them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        """Return the size of the answer, a batch that is cut off at its end included."""
        return int(self._records.size_in_bytes())

    def has_next(self) -> bool:
        """Return whether there is another whole batch."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """Return the next batch."""
        (length,) = struct.unpack_from(">i", self._data, self._at + _LENGTH_AT)
        start, self._at = self._at, self._at + _BEFORE + length
        batch = self._records.next_batch()
        return _Batch(batch, self._data[start : self._at]) if self._data[start + _MAGIC_AT] == _MAGIC else batch


class _Batch:
    """A batch whose records are read strictly, and leniently from the first one on that is not UTF-8."""

    def __init__(self, batch: Any, data: bytes) -> None:
        self._batch = batch
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """Return the next record. The client asks for it in batches of transaction markers, which have no headers."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        count = 0
        try:
            for record in self._batch:
                yield record
                count += 1
        except UnicodeDecodeError:
            batch = iter(_DefaultRecordBatchPy(bytearray(self._data)))
            batch._buffer = _LenientBytes(batch._buffer)
            yield from islice(batch, count, None)


class _LenientBytes(bytearray):
    """Bytes whose parts are decoded with replacement signs."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _LenientBytes(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


fetcher.MemoryRecords = LenientRecords
