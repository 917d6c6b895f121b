"""Faust and Arrow alone: the messages of a journal through the agents of a worker, each decoded; seconds and records.

    python -m benchmarks.peers.faust_batches --config weir.toml

The same messages and the same decoding as bare_consumer, so that what Faust costs a record is the difference. The
clock runs from the first message to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

import msgspec
from faust.types import TP

from pipeline.config import Config, load_config
from pipeline.journal.entries import Usage
from pipeline.journal.messages import read_message
from pipeline.streaming.kafka import Log
from pipeline.streaming.stage.inbox import Inbox
from pipeline.streaming.worker.agents import Stages, define
from pipeline.streaming.worker.app import faust_app

_INBOX_BYTES: Final = 16 << 20  # as that of a fold
_AT_ONCE_BYTES: Final = 4 << 20


class Decoding:
    """One partition of the journal up to `end`."""

    def __init__(self, end: int) -> None:
        self.inbox = Inbox(_INBOX_BYTES)
        self.next_offset = 0
        self.records = 0
        self.began = 0.0
        self.over = asyncio.Event()
        self._end = end

    async def run(self) -> None:
        """Decode what comes."""
        while self.next_offset < self._end:
            found = await self.inbox.take(self.next_offset, _AT_ONCE_BYTES)
            self.began = self.began or time.perf_counter()
            for one in found:
                entry = (await asyncio.to_thread(read_message, one.value, "journal")).entry()
                self.records += len(entry.batch.rows) if isinstance(entry, Usage) else 0
                one.ack()
            self.next_offset = found[-1].offset + 1
        self.over.set()


async def consume(config: Config) -> dict[str, float]:
    """Every message of the journal, as a group of its own."""
    config = msgspec.structs.replace(
        config, worker=msgspec.structs.replace(config.worker, app=f"peer-{uuid.uuid4().hex}")
    )
    log = Log(config.kafka)
    ends = await log.end_offsets(log.topics.journal)
    wanted = {TP(log.topics.journal, partition): Decoding(end) for partition, end in enumerate(ends) if end}
    with tempfile.TemporaryDirectory(prefix="weir-peer-") as folder:
        app = faust_app(config, folder)
        stages = Stages(app)
        define(app, stages, {"decode": log.topics.journal})
        for tp, stage in wanted.items():  # the one member of its group has all of them
            stages.start(tp, stage)
        await app.start()
        await asyncio.gather(*(one.over.wait() for one in wanted.values()))
        seconds = time.perf_counter() - min(one.began for one in wanted.values())
    return {"records": sum(one.records for one in wanted.values()), "seconds": seconds}


async def _run(config_file: Path) -> None:
    print(json.dumps(await consume(load_config(config_file))), flush=True)
    os._exit(0)  # Leaving the consumer group gracefully is not measured.


def main() -> None:
    """Print what it took."""
    parser = argparse.ArgumentParser(description="Consume a journal through Faust and decode it.")
    parser.add_argument("--config", type=Path, required=True)
    asyncio.run(_run(parser.parse_args().config))


if __name__ == "__main__":
    main()
