"""The command `weir worker`, which runs one streaming worker."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.context import counted, data_of
from pipeline.extras import require_extra
from rating.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import Config

# Every address of the machine: other hosts cannot connect to such a name.
_ANY: tuple[str, ...] = ("0.0.0.0", "::", "")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(worker)


def worker(
    context: typer.Context,
    history: Annotated[
        str | None, typer.Option(metavar="DIR", help="Directory for landed rows. Default: `history` of [worker].")
    ] = None,
    web_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port that serves metrics and live state.")
    ] = None,
) -> None:
    """Run one worker of the group until Ctrl-C. It rates its assigned partitions and lands their rows.

    Ctrl-C or SIGTERM shuts it down gracefully (up to 30 s); a second one stops it at once. Neither loses anything.
    """
    with require_extra("kafka", "weir worker"):
        from pipeline.streaming.worker.app import Worker
        from pipeline.streaming.worker.logs import configure
    import msgspec

    from pipeline.config import load_config
    from pipeline.store.directory import storage_errors

    config = load_config(data_of(context).config)
    given = {"history": None if history is None else str(Path(history).absolute()), "web_port": web_port}
    changed = {name: value for name, value in given.items() if value is not None}
    config = msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, **changed))
    require_address(config)
    if config.worker.clickhouse:
        from pipeline.clickhouse import require_packages

        require_packages(config.clickhouse)
    configure(config.worker.log_level, config.worker.log_format)
    with storage_errors(Path(config.worker.history), "land rows there"):
        Path(config.worker.history).mkdir(mode=0o700, parents=True, exist_ok=True)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask_to_stop(number: int) -> None:
            if stop.is_set():
                logging.shutdown()
                os._exit(128 + number)  # Safe: the next start needs only what is already durable.
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask_to_stop, number)
        await Worker(config).run(stop, lambda: _tell_start(config))

    asyncio.run(run())
    _tell(config, ["stopped"])


def require_address(config: Config) -> None:
    """Raise ConfigError if other workers could not reach this one.

    That is the case if web_host means every address of the machine and no advertised_url is set.
    """
    worker = config.worker
    if worker.web_host in _ANY and worker.advertised_url is None:
        raise ConfigError(
            f"worker.advertised_url: found nothing, although web_host is {worker.web_host}, every address of this "
            "host; expected the URL at which other workers reach this one, such as http://10.0.0.7:6066: they forward "
            "requests about cards (or set WEIR_WORKER_ADVERTISED_URL)"
        )


def _tell_start(config: Config) -> None:
    _tell(config, list(_start_lines(config)))


def _start_lines(config: Config) -> Iterator[str]:
    from jobs.output.console import shown_path
    from pipeline.config.table import is_loopback

    kafka, worker = config.kafka, config.worker
    address = f"http://{f'[{worker.web_host}]' if ':' in worker.web_host else worker.web_host}:{worker.web_port}"
    raw = "" if kafka.raw == kafka.partitions else f" (usage.raw: {kafka.raw})"
    yield f"worker of group {worker.app} at Kafka {', '.join(kafka.addresses)}, topics {kafka.prefix}*"
    yield f"{counted(kafka.partitions, 'partition')}{raw}; rows land in {shown_path(Path(worker.history))}"
    if worker.clickhouse:
        yield f"and in ClickHouse, database {config.clickhouse.database}"
    yield f"{address}/ready shows whether it is ready, {address}/metrics has its metrics"
    if worker.tokens:
        yield f"{address}/cards/ICCID and /pools/ID show live state to {counted(len(worker.tokens), 'token')}"
    elif is_loopback(worker.web_host):
        yield "live state is not served: [worker].tokens is empty"
    yield "next: `weir send apply FILE…` for a catalogue, `weir feed NAME FILE…` for usage; Ctrl-C stops it"


def _tell(config: Config, lines: list[str]) -> None:
    """Print the lines on standard error, or log them as one message if the log format is JSON."""
    if config.worker.log_format == "json":
        logging.getLogger("weir").info("; ".join(lines))
        return
    from jobs.output.console import err

    for line in lines:
        err.print(line, highlight=False, soft_wrap=True)
