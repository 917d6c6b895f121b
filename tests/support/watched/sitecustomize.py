"""Startup file of Python in child processes of tests. It makes them detect Polars objects that two threads touch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_path = Path(__file__).parent.parent / "polars_threads.py"
_spec = importlib.util.spec_from_file_location("weir_polars_threads", _path)
assert _spec is not None
assert _spec.loader is not None
_watching = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_watching)
_watching.watch_when_imported()
