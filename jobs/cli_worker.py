"""The command that runs a worker of the streaming side: worker."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Annotated

import typer

from jobs.cli_context import data_of
from jobs.console import err
from pipeline.config import load_config
from rating.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(worker)


def worker(
    context: typer.Context,
    history: Annotated[str | None, typer.Option(metavar="DIR", help="Where rows land; else as [worker] says.")] = None,
    web_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Where metrics and live state are.")] = None,
) -> None:
    """Run one worker of the group until Ctrl-C: it rates the partitions that it is given and lands their rows."""
    try:
        from pipeline.app import Worker
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"streaming needs packages that are not installed ({missing.name}): `pip install weir[streaming]`, then "
            "try again"
        ) from missing
    import msgspec

    config = load_config(data_of(context).config)
    given = {"history": history, "web_port": web_port}
    changed = {name: value for name, value in given.items() if value is not None}
    config = msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, **changed))
    logging.basicConfig(level=config.worker.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await Worker(config).run(stop)

    asyncio.run(run())
    err.print("stopped", highlight=False)
