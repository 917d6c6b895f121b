"""Entry point of `weir`. It sets what must be set before the packages are imported."""

from __future__ import annotations

import gc
import os
import sys
from typing import Final

_OBJECTS_UNTIL_COLLECTION: Final = 50_000


def main() -> None:
    """Run the command, or answer a completion request of the shell.

    A worker runs Polars with one thread, unless POLARS_MAX_THREADS is set.
    """
    if "_WEIR_COMPLETE" in os.environ:
        _complete()
        return
    if "worker" in sys.argv[1:]:
        # Polars starts its threads when it is imported. The stages of a worker already run in parallel, so spreading
        # the columns of a small batch over more threads costs more time than it saves.
        os.environ.setdefault("POLARS_MAX_THREADS", "1")
    else:
        # Importing makes hundreds of thousands of objects that stay. By default Python looks for garbage among them at
        # every 700 new ones, which is a tenth of the time of a short command.
        gc.set_threshold(_OBJECTS_UNTIL_COLLECTION)
    from jobs.cli.app import main as run

    run()


def _complete() -> None:
    # Typer imports Rich to strip markup from descriptions. These have no markup, and without Rich the answer takes half
    # the time.
    sys.modules["rich"] = None  # type: ignore[assignment]
    from jobs.cli.app import app

    app()  # Ends the process with the status that the shell expects, which differs from the status of a command.
