"""A stage gets each message of its partition once and in order, whatever Faust leaves out, repeats or never brings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pipeline.config import Kafka
from pipeline.streaming.kafka import Log, publisher_of
from pipeline.streaming.stage.in_order import InOrder
from pipeline.streaming.stage.inbox import Delivery, Inbox
from tests.support.broker import SharedBroker

COUNT = 20
MOST_BYTES = 1 << 20


def with_messages(
    kafka: SharedBroker, check: Callable[[InOrder, Inbox, list[int]], Awaitable[None]], start: int | None
) -> None:
    """Have `check` look at a partition of COUNT messages from `start` on; it is given the offsets acknowledged."""

    config, topic = Kafka(servers=kafka.address), kafka.topic()

    async def run() -> None:
        async with publisher_of(config) as publisher:
            for number in range(COUNT):
                await (await publisher.send(topic, 0, b"%d" % number))
        inbox = Inbox(MOST_BYTES)
        source = InOrder(inbox, Log(config), topic, 0, start)
        await check(source, inbox, [])

    asyncio.run(run())


def delivery(offset: int, acked: list[int]) -> Delivery:
    """A message as Faust hands it on."""
    return Delivery(offset, 0, b"%d" % offset, (), lambda: acked.append(offset))


async def taken(source: InOrder, end: int) -> list[int]:
    """Offsets up to `end`, whose content is theirs."""
    found: list[Delivery] = []
    while source.next_offset < end:
        found += await source.take(MOST_BYTES)
    assert all(one.value == b"%d" % one.offset for one in found)
    return [one.offset for one in found]


def test_what_was_there_before_comes_first(kafka: SharedBroker) -> None:
    """A stage that goes on at 4 reads to the end by itself; Faust's copies are acknowledged and left out."""

    async def check(source: InOrder, inbox: Inbox, acked: list[int]) -> None:
        await source.begin()
        for offset in range(COUNT + 1):
            await inbox.put(delivery(offset, acked))
        assert list(range(4, COUNT + 1)) == await taken(source, COUNT + 1)
        assert list(range(COUNT)) == acked

    with_messages(kafka, check, 4)


def test_what_is_left_out_is_read_from_the_log(kafka: SharedBroker) -> None:
    """Message 12 comes without 5 to 11, then some of them come late."""

    async def check(source: InOrder, inbox: Inbox, acked: list[int]) -> None:
        await inbox.put(delivery(12, acked))
        for late in (9, 10, 11, 12, 13):
            await inbox.put(delivery(late, acked))
        assert list(range(5, 14)) == await taken(source, 14)
        assert [9, 10, 11, 12] == acked

    with_messages(kafka, check, 5)


def test_what_never_comes_is_read_once_it_has_been_there_for_a_while(kafka: SharedBroker) -> None:
    """Nothing is handed on; the end of the partition is noted twice, and then what is before it is read."""

    async def check(source: InOrder, inbox: Inbox, acked: list[int]) -> None:
        waiting = asyncio.create_task(taken(source, COUNT))
        await inbox.note_end(COUNT)
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        await inbox.note_end(COUNT)
        assert list(range(COUNT)) == await waiting

    with_messages(kafka, check, 0)


def test_a_partition_that_was_never_read_is_read_from_its_beginning(kafka: SharedBroker) -> None:
    """Without a place to go on from all messages come."""

    async def check(source: InOrder, inbox: Inbox, acked: list[int]) -> None:
        await source.begin()
        assert list(range(COUNT)) == await taken(source, COUNT)
        assert acked == []

    with_messages(kafka, check, None)


def test_a_piece_that_ends_with_the_log_loses_nothing_behind_it(kafka: SharedBroker) -> None:
    """The log is read in pieces of a message each, up to 10 first and further later: every message comes."""

    async def check(source: InOrder, inbox: Inbox, acked: list[int]) -> None:
        found: list[int] = []

        async def take_up_to(end: int) -> None:
            await inbox.note_end(end)
            await inbox.note_end(end)
            while source.next_offset < end:
                found.extend(one.offset for one in await source.take(1))

        for end in (10, 13, 13, COUNT):
            await take_up_to(end)
        assert list(range(COUNT)) == found

    with_messages(kafka, check, 0)
