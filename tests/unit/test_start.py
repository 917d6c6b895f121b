"""How `weir` starts: what must be settled before Polars is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

RUN = """
import sys
from jobs.start import main
try:
    main()
except SystemExit:
    import polars
    print(polars.thread_pool_size())
"""


@pytest.mark.parametrize(
    ("command", "given", "threads"),
    [("worker", None, 1), ("worker", "3", 3), ("status", None, os.cpu_count()), ("status", "3", 3)],
)
def test_a_worker_has_one_thread_of_polars(command: str, given: str | None, threads: int) -> None:
    """Unless somebody says otherwise; other commands have as many as there are processors."""
    environment = {name: value for name, value in os.environ.items() if name != "POLARS_MAX_THREADS"}
    environment |= {} if given is None else {"POLARS_MAX_THREADS": given}
    done = subprocess.run(
        [sys.executable, "-c", RUN, command, "--help"], capture_output=True, text=True, env=environment, check=True
    )
    assert threads == int(done.stdout.splitlines()[-1])
