"""Commands of the streaming side: kafka."""

from __future__ import annotations

import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from jobs.console import err, out, shown_path
from pipeline.broker import Broker
from rating.errors import UsageError

_DIRECTORY = Path("weir-kafka")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(kafka)


def kafka(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where clients reach the broker, on 127.0.0.1.")] = 9092,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help=f"Where topics are kept; else {_DIRECTORY}."),
    ] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Keep nothing: topics are removed when the broker stops.")
    ] = False,
) -> None:
    """Run one Kafka broker on this machine until Ctrl-C, to try streaming; needs Java 17, and Maven the first time."""
    if ephemeral and directory is not None:
        raise UsageError(f"--dir {directory} with --ephemeral; give one of the two: topics are kept, or they are not")
    # What ends a service or closes a terminal stops the broker as Ctrl-C does; under nohup a closed terminal does not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            if ephemeral:
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-kafka-")))
            directory = directory or _DIRECTORY
            broker = Broker(directory, port)
            err.print(f"starting a Kafka broker in {shown_path(directory)}", highlight=False, markup=False)
            stack.enter_context(broker)
            kept = "removed when it stops" if ephemeral else f"kept in {shown_path(directory)}"
            for line in (
                f"Kafka answers at {broker.address} (process {broker.pid}); topics are {kept}",
                "Ctrl-C stops it.",
            ):
                out.print(line, highlight=False, markup=False, soft_wrap=True)
            out.file.flush()
            broker.wait()
    except KeyboardInterrupt:
        out.print("stopped", highlight=False)
