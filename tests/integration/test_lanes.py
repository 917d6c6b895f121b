"""Lanes in a process of their own: they give what a lane gives, and they end with their worker."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.feeds.mappings import ready_mappings
from pipeline.journal.entries import Apply
from pipeline.journal.messages import messages_of
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.mediate.partition import Lane, Mark, NotYet
from pipeline.streaming.mediate.process import Lanes
from pipeline.streaming.raw.headers import RawMessage, marker
from rating.errors import WorldError
from schemas.cards import Account, Catalogue
from tests.support.fold_case import cards
from tests.support.progress import wait_until

MAPPINGS = {mapping.name: mapping for mapping in ready_mappings()}
PLAIN = "record_key,service,direction,iccid,volume_up_bytes,volume_down_bytes,used_at\n"
HOLDS_LANES = """
import asyncio, multiprocessing, time
from pipeline.streaming.mediate.process import Lanes
from pipeline.streaming.mediate.partition import Mark
async def run():
    lanes = Lanes("usage.raw", 2, {})
    await lanes.take(0, (), [])
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(86_400)
if __name__ == "__main__":
    asyncio.run(run())
"""


def catalogue(*names: str) -> bytes:
    """A message with an account of each name."""
    found = Catalogue(accounts=tuple(Account(id=name) for name in names), cards=cards())
    (content,) = messages_of(Apply(found, 1_793_500_000_000_000))
    return content


def chunk(first: int, count: int) -> RawMessage:
    """Usage of cards that nobody knows; every third line is bad."""
    lines = [f"k{n},data,both,{n},1,{'x' if n % 3 else 2},2026-10-05T12:00:00Z\n" for n in range(first, first + count)]
    headers = {"form": "lines", "feed": "plain", "source": "f", "digest": "d", "row": "1", "csv-header": PLAIN.strip()}
    return RawMessage("".join(lines).encode(), tuple((name, text.encode()) for name, text in headers.items()))


def test_lanes_give_what_a_lane_gives() -> None:
    """Messages of the journal, marks, and the wish for a catalogue that is not known yet."""
    registry = Registry(4)
    messages = [(7, 5, marker(0)), (8, 6, chunk(0, 50)), (9, 7, chunk(50, 9))]

    async def run() -> None:
        lanes = Lanes("usage.raw", 4, MAPPINGS)
        try:
            with pytest.raises(NotYet) as wait:
                await lanes.take(1, (), messages)
            assert wait.value.offset == 0
            await lanes.know(0, catalogue("one", "two"))
            assert registry.take(0, catalogue("one", "two")) is None
            lane = Lane("usage.raw", 1, registry, MAPPINGS)
            here = lane.take(messages)
            assert here == await lanes.take(1, (), messages)
            assert (Mark(7, 0),) == here.marks
            assert (20, 39) == (here.records, here.rejected)
            again = [(10, 8, chunk(60, 5))]
            assert lane.take(again) == await lanes.take(1, here.marks, again)
        finally:
            lanes.close()

    asyncio.run(run())


def test_a_worker_hears_that_the_process_was_ended() -> None:
    """Whoever asks it next gets an error that says what to do."""

    async def run() -> None:
        lanes = Lanes("usage.raw", 2, {})
        await lanes.take(0, (), [])
        (child,) = multiprocessing.active_children()
        child.kill()
        child.join()
        with pytest.raises(WorldError, match="exited unexpectedly; expected it to run as long as its worker"):
            await lanes.take(0, (), [])

    asyncio.run(run())


def test_the_process_ends_with_its_worker(tmp_path: Path) -> None:
    """Also where that is killed; and a signal to stop, sent to all processes of a service, does not end it before."""
    script = tmp_path / "holds.py"
    script.write_text(HOLDS_LANES, encoding="utf-8")
    worker = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    assert worker.stdout is not None
    with worker.stdout as said:
        child = int(said.readline())
        os.kill(child, signal.SIGTERM)
        time.sleep(0.3)
        assert is_running(child)
        worker.kill()
        worker.wait()
    wait_until(lambda: not is_running(child), "the end of the process, which has lost its worker")


def is_running(process: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
