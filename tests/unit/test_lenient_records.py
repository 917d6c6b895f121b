"""A message whose header names are not UTF-8 is read, and so are all others of its batch and behind it."""

from __future__ import annotations

import struct

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from pipeline.streaming.kafka.lenient import LenientRecords

_CRC_AT, _AFTER_CRC = 17, 21


def batch(*headers: list[tuple[str, bytes | None]], compression: int = 0) -> bytes:
    """A batch of a message for each list of headers; a header named QQQQ is then named by bytes that are not UTF-8."""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1 << 20)
    for offset, own in enumerate(headers):
        builder.append(offset, 1_790_000_000_000 + offset, None, b"v%d" % offset, own)
    content = bytes(builder.build())
    return resealed(content.replace(b"QQQQ", b"\xff\xfe\xff\xfe"))


def resealed(content: bytes) -> bytes:
    """The batch under a checksum that fits."""
    sealed = bytearray(content)
    struct.pack_into(">I", sealed, _CRC_AT, calc_crc32c(bytes(sealed[_AFTER_CRC:])))
    return bytes(sealed)


def read(content: bytes) -> list[tuple[int, bytes, list[tuple[str, bytes | None]]]]:
    """What a consumer of the client reads of these bytes."""
    records = fetcher.MemoryRecords(content)
    found = fetcher.PartitionRecords(TopicPartition("t", 0), records, [], 0, None, None, True, 0)
    return [(one.offset, one.value, list(one.headers)) for one in found]


def test_every_consumer_reads_leniently() -> None:
    """The client's own reader of batches is replaced as soon as Weir's client is imported."""
    assert fetcher.MemoryRecords is LenientRecords


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_name_that_is_no_text_costs_nothing(place: int) -> None:
    """Wherever in a batch it is; null values and other headers stay as they are."""
    headers: list[list[tuple[str, bytes | None]]] = [[("feed", b"plain")], [("x", None)], []]
    headers[place] = [*headers[place], ("QQQQ", b"1")]
    found = read(batch(*headers))
    assert [0, 1, 2] == [offset for offset, _, _ in found]
    assert [b"v0", b"v1", b"v2"] == [value for _, value, _ in found]
    headers[place][-1] = ("�" * 4, b"1")
    assert headers == [own for _, _, own in found]


def test_all_that_the_client_asks_is_there() -> None:
    """It has the methods of the client's own records, and a batch that is cut off has a size, but is not read."""
    assert {name for name in dir(MemoryRecords) if name[0] != "_"} <= set(dir(LenientRecords))
    content = batch([("a", b"1")])
    cut = LenientRecords(content[:-1])
    assert (len(content) - 1, False) == (cut.size_in_bytes(), cut.has_next())
    assert LenientRecords(b"").size_in_bytes() == 0


def test_batches_before_and_behind_are_read() -> None:
    """The place of each batch is found by its length."""
    good, bad = batch([("a", b"1")]), batch([("QQQQ", b"1")])
    whole = b"".join(struct.pack(">q", offset) + one[8:] for offset, one in enumerate((good, bad, good, bad, good)))
    assert [0, 1, 2, 3, 4] == [offset for offset, _, _ in read(whole)]
