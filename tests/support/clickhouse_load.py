"""Load of a data directory in small blocks, for tests that kill it.

    python -m tests.support.clickhouse_load DATA PATH

prints a line before each block.
"""

import sys
from pathlib import Path

from pipeline.clickhouse import History, Sink, connect, migrate
from pipeline.config import ClickHouse
from pipeline.store.directory import DataDirectory

data, path = map(Path, sys.argv[1:])
with DataDirectory.open(data, write=False) as directory, connect(ClickHouse(path=str(path))) as client:
    migrate(client)
    sink = Sink(client, patience_s=0)
    landed = sink.landed()
    for name in ("rated", "rejected"):
        for block in History(directory, name, block_rows=250).blocks(landed.get((name, 0), 0)):
            print(name, flush=True)
            sink.land(name, block.rows, 0, block.first_offset, block.next_offset, block.offsets)
