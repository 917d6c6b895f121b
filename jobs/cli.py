"""The command line: `weir`. Each command is a few lines over a function of jobs/ or pipeline/.

Exit status: 0 done (also with rejected records), 2 bad usage or configuration, 3 the world failed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from jobs import cli_feeds, cli_ingest, cli_read, cli_rejected
from jobs.cli_context import Data
from jobs.console import err
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
) -> None:
    """Options of all commands."""
    context.obj = Data(data)


cli_ingest.register(app)
cli_read.register(app)
cli_rejected.register(app)
cli_feeds.register(app)


def main() -> None:
    """Run `weir`; errors become a message on standard error and the exit status."""
    try:
        app()
    except InputError as error:
        _fail(error, 2)
    except WorldError as error:
        _fail(error, 3)


def _fail(error: Exception, status: int) -> NoReturn:
    err.print(f"weir: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(status)
