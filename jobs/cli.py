"""The command line: `weir`. Each command is a few lines over a function of jobs/ or pipeline/.

Exit status: 0 done (also with rejected records), 2 bad usage or configuration, 3 the world failed.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs import (
    cli_clickhouse,
    cli_feeds,
    cli_ingest,
    cli_outbox,
    cli_pack,
    cli_read,
    cli_rejected,
    cli_rules,
    cli_streaming,
    cli_worker,
)
from jobs.cli_context import Data
from jobs.console import err, printable_lines
from rating.errors import InputError, WorldError

app = typer.Typer(
    name="weir",
    help="Rate usage records of IoT SIM cards: load plans and cards, ingest carrier feeds, read totals and reports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def common(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(envvar="WEIR_DATA", metavar="DIR", help="The data directory.", show_default=True)
    ] = Path("weir-data"),
    config: Annotated[
        Path | None,
        typer.Option(envvar="WEIR_CONFIG", metavar="FILE", help="The configuration; weir.toml if there is one."),
    ] = None,
) -> None:
    """Options of all commands."""
    context.obj = Data(data, config)


cli_ingest.register(app)
cli_read.register(app)
cli_rejected.register(app)
cli_rules.register(app)
cli_feeds.register(app)
cli_outbox.register(app)
cli_streaming.register(app)
cli_worker.register(app)
cli_pack.register(app)
cli_clickhouse.register(app)


def main() -> None:
    """Run `weir`; errors become a message on standard error and the exit status."""
    sys.exit(_run())


def _run() -> int:
    try:
        app()
    except SystemExit as end:  # how Typer ends, done or not
        if end.code == 130:
            return _message("stopped; what was committed stays, and the same command goes on from there", 130)
        # 1 is what Typer and Rich end with when nobody reads the output any more (`weir cards | head -1`).
        status = end.code if isinstance(end.code, int) and end.code != 1 else 0
    except InputError as error:
        return _message(error, 2)
    except WorldError as error:
        return _message(error, 3)
    except OSError as error:
        return _message(f"{error.filename or 'output'}: {error.strerror}; {_advice(error)}", 3)
    except MemoryError:
        return _message("the memory does not suffice; close other programs, then give the same command again", 3)
    except Exception as error:
        if os.environ.get("WEIR_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"
        return _message(f"a defect of Weir: {what}\nGive the command again with WEIR_DEBUG=1 to see where it lies.", 1)
    return _flushed(status)


def _flushed(status: int) -> int:
    """`status`, once all output has been taken; a reader that went away wants no more of it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            return _message(f"standard output: {error.strerror}; {_advice(error)}", 3)
    return status


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room, then give the same command again"
    return "check the path and its permissions"


def _message(error: object, status: int) -> int:
    err.print(printable_lines(f"weir: {error}"), style="red", highlight=False, markup=False, soft_wrap=True)
    return status
