"""The check of Polars objects finds what two threads touch, also in a child process that catches the error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from tests.support import polars_threads


def test_an_object_of_another_thread_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that another thread made may not be read; one of this thread may."""
    monkeypatch.setenv(polars_threads.VARIABLE, str(tmp_path / "found.txt"))
    made = list[pl.DataFrame]()
    thread = threading.Thread(target=lambda: made.append(pl.DataFrame({"a": [1]})))
    thread.start()
    thread.join()
    with pytest.raises(polars_threads.PolarsThreadError):
        _ = made[0].height
    assert pl.DataFrame({"a": [1]}).height == 1
    assert "a DataFrame of the thread" in (tmp_path / "found.txt").read_text()


def test_a_child_process_notes_what_it_finds(tmp_path: Path) -> None:
    """A child that goes on after the error has still noted it."""
    code = """
import threading, polars as pl
series = pl.Series([1])
def touch():
    try:
        len(series)
    except AssertionError:
        pass
thread = threading.Thread(target=touch)
thread.start()
thread.join()
"""
    found = tmp_path / "found.txt"
    environment = os.environ | {polars_threads.VARIABLE: str(found)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert "a Series of the thread 'MainThread' was touched by" in found.read_text()
