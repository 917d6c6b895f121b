"""Stages of partitions that went away end, whatever they are waiting for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faust.types import TP

from pipeline.streaming.stage.inbox import Inbox
from pipeline.streaming.worker.agents import Stages


class Stubborn:
    """A stage whose client swallows the first wishes to end, as one may that has just got its answer."""

    def __init__(self, swallows: int) -> None:
        self.inbox = Inbox(1)
        self.next_offset = 0
        self.asked = 0
        self._swallows = swallows

    async def run(self) -> None:
        """Wait until it has been asked once more than it swallows."""
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.asked += 1
                if self.asked > self._swallows:
                    raise


@pytest.mark.parametrize("swallows", [0, 1, 2])
def test_a_stage_that_goes_is_asked_until_it_has_ended(swallows: int) -> None:
    """Who gets the partition next need not share it; and the stage of one that stays runs on."""
    app: Any = None  # only asked where an inbox is full

    async def run() -> None:
        stages = Stages(app)
        goes, stays = Stubborn(swallows), Stubborn(0)
        stages.start(TP("t", 0), goes)
        stages.start(TP("t", 1), stays)
        await asyncio.sleep(0)
        await stages.keep([TP("t", 1)])
        assert [TP("t", 1)] == list(stages)
        assert (swallows + 1, 0) == (goes.asked, stays.asked)
        await stages.keep(())

    asyncio.run(run())
