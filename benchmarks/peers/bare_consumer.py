"""aiokafka and Arrow alone: consume the messages of a journal and decode each; seconds and records.

python -m benchmarks.peers.bare_consumer --config weir.toml
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

from pipeline.config import load_config
from pipeline.journal.entries import Usage
from pipeline.journal.messages import read_message
from pipeline.streaming.kafka import Log


async def consume(config_file: Path) -> dict[str, float]:
    """Every message of the journal, partition after partition; the clock runs while they are read."""
    log = Log(load_config(config_file).kafka)
    ends = await log.end_offsets(log.topics.journal)
    records, began = 0, time.perf_counter()
    async with log.batches(log.topics.journal, dict.fromkeys(range(len(ends)), 0), "bare") as batches:
        left = sum(ends)
        while left:
            for found in (await batches.take(1000)).values():
                for message in found:
                    entry = read_message(message.value, "journal").entry()
                    records += len(entry.batch.rows) if isinstance(entry, Usage) else 0
                    left -= 1
    return {"records": records, "seconds": time.perf_counter() - began}


def main() -> None:
    """Print what it took."""
    parser = argparse.ArgumentParser(description="Consume and decode a journal.")
    parser.add_argument("--config", type=Path, required=True)
    print(json.dumps(asyncio.run(consume(parser.parse_args().config))))


if __name__ == "__main__":
    main()
