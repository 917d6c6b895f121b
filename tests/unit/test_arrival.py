"""Times of arrival that would move the clock for good are refused, by every driver, before anything is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedded.driver import Embedded
from pipeline.feeds.mappings import load_mapping
from pipeline.journal.arrival import LAST_ARRIVAL_US, require_time, time_problem
from pipeline.streaming.raw.headers import RawMessage, arrival_of
from pipeline.streaming.worker.app import wrong_clock
from rating.dedupe.seen import DAY_US
from rating.errors import UsageError
from schemas.cards import Account, Catalogue
from schemas.commands import Activate
from schemas.plans import Rate
from schemas.rules import Rule
from tests.support.fold_case import cards, plan

NOW_US = 1_793_500_000_000_000
HOUR_US = DAY_US // 24


@pytest.mark.parametrize(
    ("at_us", "said"),
    [
        (NOW_US, None),
        (0, None),
        (NOW_US + DAY_US, None),
        (NOW_US + DAY_US + 1, "more than a day after 2026-11-01"),
        (-1, "before 1970"),
        (LAST_ARRIVAL_US + 1, "after 2148"),
    ],
)
def test_a_time_may_be_a_day_ahead(at_us: int, said: str | None) -> None:
    """No more, and neither before 1970 nor beyond what the fold can count."""
    problem = time_problem(at_us, NOW_US)
    assert (problem is None) == (said is None)
    assert said is None or (problem is not None and said in problem)


def test_the_last_time_fits_what_the_fold_keeps() -> None:
    """Days of arrival are 16 bits, with room for the days that keys are known."""
    assert LAST_ARRIVAL_US // DAY_US + 100 < np.iinfo(np.uint16).max


def test_force_takes_times_ahead_but_none_that_the_fold_cannot_count() -> None:
    """Whoever means a time of next year may give it."""
    with pytest.raises(UsageError, match="--force"):
        require_time(NOW_US + 400 * DAY_US, NOW_US, force=False)
    require_time(NOW_US + 400 * DAY_US, NOW_US, force=True)
    with pytest.raises(UsageError, match="after 2148"):
        require_time(LAST_ARRIVAL_US + 1, NOW_US, force=True)


@given(st.integers(-(2**62), 2**62), st.binary(max_size=20) | st.integers(0, 10**18).map(lambda n: b"%d" % n))
def test_the_arrival_of_a_message_is_never_ahead(timestamp_us: int, as_of: bytes) -> None:
    """Whatever timestamp and header say, the arrival that counts is from 1970 to a day after now."""
    at_us, problem = arrival_of(timestamp_us, RawMessage(b"", (("as-of", as_of),)), NOW_US)
    assert 0 <= at_us <= NOW_US + 2 * DAY_US
    alone_us, _ = arrival_of(timestamp_us, RawMessage(b"", (("as-of", as_of),)))
    assert 0 <= alone_us <= LAST_ARRIVAL_US
    if 0 <= timestamp_us <= NOW_US and not as_of.isdigit():
        assert (timestamp_us, None) == (at_us, problem)


WRONG: dict[str, Callable[[Embedded, int, Path], object]] = {
    "tick": lambda driver, at_us, _: driver.tick(at_us),
    "apply": lambda driver, at_us, _: driver.apply(Catalogue(accounts=(Account(id="b"),)), at_us),
    "command": lambda driver, at_us, _: driver.command([Activate(rule="r")], at_us),
    "ingest": lambda driver, at_us, path: driver.ingest(load_mapping("plain"), [path], at_us, fixed_as_of=True),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_embedded_driver_refuses_times_ahead(tmp_path: Path, name: str) -> None:
    """Nothing is kept of it; with force it is taken."""
    usage = tmp_path / "usage.csv"
    usage.write_text("record_key,service,iccid,quantity,used_at\nk,data,1,5,2026-10-01T00:00:00Z\n")
    change = Catalogue(
        accounts=(Account(id="a"),),
        plans=(plan(Rate(service="data")),),
        rules=(Rule(id="r", trigger="data_usage_cycle", threshold=5),),
        cards=cards({"iccid": "1", "plan": "p"}),
    )
    ahead_us = time.time_ns() // 1000 + 2 * DAY_US
    with Embedded.open(tmp_path / "data", write=True) as driver:
        driver.apply(change, NOW_US)
        before = driver.directory.manifest.checkpoint
        with pytest.raises(UsageError, match="more than a day after"):
            WRONG[name](driver, ahead_us, usage)
        assert (before, NOW_US) == (driver.directory.manifest.checkpoint, driver.engine.state.clock_us)
    with Embedded.open(tmp_path / "data", write=True, force=True) as driver:
        WRONG[name](driver, ahead_us, usage)
        assert ahead_us == driver.engine.state.clock_us


@pytest.mark.parametrize(
    ("ahead_us", "is_brokers_time", "said"),
    [
        (0, True, None),
        (HOUR_US - 1_000_000, True, None),
        (3 * HOUR_US, True, "180 minutes ahead of the broker's"),
        (-3 * HOUR_US, True, "180 minutes behind the broker's"),
        (3 * HOUR_US, False, None),
    ],
)
def test_a_clock_that_differs_from_the_brokers_is_told(ahead_us: int, is_brokers_time: bool, said: str | None) -> None:
    """From an hour on, if the time of the message is the broker's."""
    problem = wrong_clock(NOW_US + ahead_us, NOW_US // 1000, is_brokers_time)
    assert (problem is None) == (said is None)
    assert said is None or (problem is not None and said in problem)
