"""The entry of `weir`: what must be settled before its packages are loaded."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command. A worker has one thread of Polars, unless POLARS_MAX_THREADS says otherwise."""
    if "worker" in sys.argv[1:]:
        # Polars makes its threads as it is imported. The stages of a worker run beside one another: to hand the
        # columns of a small batch to more threads costs them more than it wins.
        os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from jobs.cli import main as run

    run()
