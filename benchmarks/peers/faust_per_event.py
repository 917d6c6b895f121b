"""Plain Faust: one event a record, one table write a record; seconds for `--records` of them.

    python -m benchmarks.peers.faust_per_event --server 127.0.0.1:9092 --topic TOPIC --records 30000

The topic holds one JSON object a message, with `iccid` and `quantity`, and has one partition. The clock runs from the
first event to the last write.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from typing import Any

import faust


def main() -> None:
    """Run the app until the records are counted."""
    parser = argparse.ArgumentParser(description="Count records with one Faust table write each.")
    parser.add_argument("--server", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--records", type=int, required=True)
    given = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="weir-peer-")
    app = faust.App(
        f"peer-{uuid.uuid4().hex}",
        broker=f"kafka://{given.server}",
        datadir=folder,
        store="memory://",
        web_enabled=False,
        topic_replication_factor=1,
        topic_partitions=1,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
    )
    totals: Any = app.Table("totals", default=int, partitions=1)

    @app.agent(app.topic(given.topic, value_serializer="json"))
    async def count(records: Any) -> None:
        done, began = 0, 0.0
        async for record in records:
            began = began or time.perf_counter()
            totals[record["iccid"]] += record["quantity"]
            done += 1
            if done == given.records:
                print(json.dumps({"records": done, "seconds": time.perf_counter() - began}), flush=True)
                sys.stdout.flush()
                os._exit(0)

    async def run() -> None:
        await app.start()
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
