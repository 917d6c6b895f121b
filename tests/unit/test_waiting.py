"""A stage that waits for long shows in /ready; one that goes on does not."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from pipeline.streaming.stage.waiting import LONG_S, Waiting
from pipeline.streaming.worker.http import waits


def test_a_stage_that_waits_for_a_minute_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says for what and how long it waits, until it goes on."""
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    waiting = Waiting()
    stages = {"raw[1]": SimpleNamespace(waiting=waiting)}
    with waiting.for_what("waits for offset 3 of commands"):
        now_s += LONG_S
        assert waits(True, False, stages, 5, 5) == []
        now_s += 5
        assert waits(True, False, stages, 5, 5) == ["raw[1] has waited for 65 s: it waits for offset 3 of commands"]
        assert waiting.seconds == 65
    assert waiting.seconds == 0
    assert waits(True, False, stages, 5, 5) == []


def test_a_wait_that_fails_ends_too() -> None:
    """Whatever ends it, the stage does not wait any more."""
    waiting = Waiting()
    with pytest.raises(ValueError, match="over"), waiting.for_what("waits"):
        raise ValueError("over")
    assert waiting.problem is None
