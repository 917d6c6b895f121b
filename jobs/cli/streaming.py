"""Streaming commands: `weir kafka` and `weir feed`."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.context import FeedArgument, Files, Json, counted, data_of, instant_to_send, micros
from pipeline.extras import require_extra
from rating.errors import UsageError

if TYPE_CHECKING:
    from pipeline.feeds.source_file import Source
    from pipeline.streaming.raw.feeding import Fed

_DIRECTORY = Path("weir-kafka")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(kafka)
    app.command()(feed)


def kafka(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of the broker on 127.0.0.1.")] = 9092,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help=f"Directory for the topics. Default: {_DIRECTORY}."),
    ] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Remove all topics when the broker stops.")] = False,
) -> None:
    """Run a Kafka broker on this machine until Ctrl-C, to try streaming. Needs Java 17, and Maven the first time."""
    from jobs.output.console import err, out, shown_path
    from pipeline.broker import Broker

    if ephemeral and directory is not None:
        raise UsageError(f"found --dir {directory} and --ephemeral; expected one of them: topics are kept or removed")
    # SIGTERM and SIGHUP stop the broker as Ctrl-C does. Under nohup, SIGHUP stays ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            if ephemeral:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-kafka-")))
            directory = directory or _DIRECTORY
            broker = Broker(directory, port)
            err.print(f"starting a Kafka broker in {shown_path(directory)}", highlight=False)
            stack.enter_context(broker)
            kept = "removed when it stops" if ephemeral else f"kept in {shown_path(directory)}"
            for line in (
                f"Kafka answers at {broker.address} (process {broker.pid}); topics are {kept}",
                "Ctrl-C stops it.",
            ):
                out.print(line, highlight=False, soft_wrap=True)
            out.file.flush()
            broker.wait()
    except KeyboardInterrupt:
        out.print("stopped", highlight=False)


def feed(
    context: typer.Context,
    feed: FeedArgument,
    files: Files,
    partition: Annotated[
        int | None,
        typer.Option(metavar="N", help="Partition of usage.raw. Default: chosen by the content of each file."),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time of arrival of the files (ISO 8601). Default: now.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Send whole files again, including what the topic already has.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send feed files to Kafka, for workers to rate. After a crash, run the command again: it resumes.

    The workers need the mapping as well: a ready one, or one that [worker].feeds of their configuration names.
    """
    from jobs.output.console import progress_bar, show
    from pipeline.config import load_config
    from pipeline.feeds.mappings import load_mapping

    mapping = load_mapping(feed)
    moment = instant_to_send(as_of, "--as-of")
    kafka = load_config(data_of(context).config).kafka

    async def send(watch: Callable[[Source, int], None]) -> list[Fed]:
        # Import here: few commands need the Kafka client, and it loads slowly.
        with require_extra("kafka", "weir feed"):
            from pipeline.streaming.kafka import ensure_topics
            from pipeline.streaming.raw.feeding import feed_files
            from pipeline.streaming.worker.threads import work_in_one_thread

        work_in_one_thread()
        await ensure_topics(kafka)
        as_of_us = None if moment is None else micros(moment)
        return await feed_files(kafka, mapping, files, as_of_us, partition=partition, again=again, watch=watch)

    started_s = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task(f"feed {mapping.name}", total=None, note="")

        def watch(source: Source, offset: int) -> None:
            # For a compressed file only the size on disk is known, and the offset soon exceeds it.
            total = source.size_bytes if offset <= source.size_bytes else None
            bar.update(task, completed=offset, total=total, description=f"feed {source.name}")

        fed = asyncio.run(send(watch))
    document = {"files": [_fed(one) for one in fed], "seconds": round(time.monotonic() - started_s, 3)}
    text = "\n".join(map(_sentence, fed))
    show(document, as_json, lambda console: console.print(text, highlight=False))


def _fed(one: Fed) -> dict[str, object]:
    return {
        "file": one.name,
        "partition": one.partition,
        "messages": one.messages,
        "rows": one.rows,
        "before": one.before,
        "as_of_us": one.as_of_us,
    }


def _sentence(one: Fed) -> str:
    if one.was_there:
        return f"{one.name}: partition {one.partition} has the whole file already; --again sends it again"
    behind = f", after {one.before:,} that it had already" if one.before else ""
    sent = f"{counted(one.rows, 'row')} in {counted(one.messages, 'message')}"
    return f"{one.name}: {sent} to partition {one.partition}{behind}"
