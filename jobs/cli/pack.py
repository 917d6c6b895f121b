"""The command `weir pack`, which packs single records of a topic for streaming workers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.context import FeedArgument, Json, counted, data_of
from pipeline.extras import require_extra
from rating.errors import UsageError
from schemas.choices import AvroFraming

if TYPE_CHECKING:
    from pipeline.config import Kafka
    from pipeline.streaming.raw.packing import Packed
    from schemas import mapping as feeds


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(pack)


def pack(
    context: typer.Context,
    feed: FeedArgument,
    topic: Annotated[str, typer.Option("--from", metavar="TOPIC", help="The topic that holds single records.")],
    partitions: Annotated[
        str | None, typer.Option(metavar="N,N-N", help="Partitions of that topic to pack. Default: all.")
    ] = None,
    csv_header: Annotated[
        str | None, typer.Option(metavar="LINE", help="The column names, if records are CSV lines.")
    ] = None,
    avro_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The Avro schema (.avsc), if records are Avro.")
    ] = None,
    avro_framing: Annotated[
        AvroFraming, typer.Option(help="Whether Avro records begin with the 5 bytes of a schema registry.")
    ] = "auto",
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Consumer group that shows progress. Default: `<prefix>pack`."),
    ] = None,
    wait_ms: Annotated[
        int, typer.Option(min=0, max=60_000, help="Longest time that a record waits for others, in milliseconds.")
    ] = 50,
    idle_exit: Annotated[
        bool, typer.Option("--idle-exit", help="Stop when all records that the topic had at the start are packed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack single records of a topic for workers to rate, until Ctrl-C: each once, even after a crash.

    The workers need the mapping as well: a ready one, or one that [worker].feeds of their configuration names.
    """
    from jobs.output.console import progress_bar, show
    from pipeline.config import load_config
    from pipeline.feeds.mappings import load_mapping

    mapping = load_mapping(feed)
    wanted = None if partitions is None else _numbers(partitions)
    config = load_config(data_of(context).config)
    kafka = config.kafka
    started_s = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task(f"pack {topic}", total=None, note="")
        run = _run(
            kafka,
            mapping,
            topic,
            wanted,
            csv_header,
            avro_schema,
            avro_framing,
            f"{kafka.prefix}pack" if group is None else group,
            wait_ms / 1000,
            idle_exit,
            lambda records: bar.advance(task, records),
            config.worker.origins,
        )
        packed = asyncio.run(run)
    document = {"partitions": [_told(one) for one in packed], "seconds": round(time.monotonic() - started_s, 3)}
    text = "\n".join(
        f"{topic}[{one.partition}]: {counted(one.records, 'record')} in {counted(one.messages, 'message')} to "
        f"partition {one.raw_partition}, from offset {one.start:,} to before {one.next_offset:,}"
        for one in packed
    )
    show(document, as_json, lambda console: console.print(text, highlight=False))


async def _run(
    kafka: Kafka,
    mapping: feeds.Mapping,
    topic: str,
    partitions: list[int] | None,
    csv_header: str | None,
    avro_schema: Path | None,
    avro_framing: AvroFraming,
    group: str,
    wait_s: float,
    idle_exit: bool,
    watch: Any,
    origins: Mapping[str, int],
) -> list[Packed]:
    # Import here: few commands need the Kafka client, and it loads slowly.
    with require_extra("kafka", "weir pack"):
        from pipeline.streaming.kafka import ensure_topics
        from pipeline.streaming.raw.avro import AvroRecords
        from pipeline.streaming.raw.packing import Packer, Packing
        from pipeline.streaming.worker.threads import work_in_one_thread

    work_in_one_thread()
    avro = None if avro_schema is None else AvroRecords.load(avro_schema, avro_framing)
    packing = Packing(mapping, csv_header, avro, kafka.limit_bytes)
    packer = Packer(kafka, packing, topic, partitions, group, wait_s, origins)
    await ensure_topics(kafka)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await packer.run(stop, idle_exit=idle_exit, watch=watch)


def _told(one: Packed) -> dict[str, int]:
    return {
        "partition": one.partition,
        "raw_partition": one.raw_partition,
        "start": one.start,
        "next_offset": one.next_offset,
        "records": one.records,
        "messages": one.messages,
    }


def _numbers(text: str) -> list[int]:
    """Parse numbers and ranges such as 0-3,5 into a sorted list. Raises UsageError if the text is anything else."""
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or max(len(first), len(last)) > 6:
            raise UsageError(f"--partitions: found {word!r}; expected numbers and ranges such as 0-3,5")
        found |= set(range(int(first), int(last or first) + 1))
    if not found:
        raise UsageError(f"--partitions: found {text!r}; expected numbers and ranges such as 0-3,5")
    return sorted(found)
