"""The entry of `weir`: what must be settled before its packages are loaded."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command, or answer a shell that asks how to complete one.

    A worker has one thread of Polars, unless POLARS_MAX_THREADS says otherwise.
    """
    if "_WEIR_COMPLETE" in os.environ:
        _complete()
        return
    if "worker" in sys.argv[1:]:
        # Polars makes its threads as it is imported. The stages of a worker run beside one another: to hand the
        # columns of a small batch to more threads costs them more than it wins.
        os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from jobs.cli.app import main as run

    run()


def _complete() -> None:
    # Typer imports Rich to strip markup from descriptions, which have none. Without Rich an answer takes half the time.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from jobs.cli.app import app

    app()  # ends the process with the status that the shell expects, which is not that of a command
