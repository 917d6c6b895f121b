"""The command `weir verify`."""

from __future__ import annotations

import typer

from jobs.context import Json, data_of
from rating.errors import StorageError


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(verify)


def verify(context: typer.Context, as_json: Json = False) -> None:
    """Read every file of the data directory and compare it with its digest."""
    from jobs.output.console import progress_bar, show
    from jobs.warehouse import verify as verification

    path = data_of(context).path
    with progress_bar() as bar:
        task = bar.add_task("verify", total=None, note="")
        done = verification.verify(path, lambda read, known: bar.update(task, completed=read, total=known))
    show(done.as_json(), as_json, lambda console: verification.render(done, console))
    if done.damaged:
        raise StorageError(
            f"{path}: {len(done.damaged):,} of {done.files:,} files are damaged; restore them from a backup, or ingest "
            "again into another --data directory"
        )
