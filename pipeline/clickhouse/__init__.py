"""The ClickHouse sink: the tables of the history and their totals, in a server or in an engine inside this process.

    connect   open a Client as [clickhouse] of the configuration says (client.py)
    migrate   bring tables and views to the current version (schema.py)
    Sink      insert rows exactly once, even after a crash or a repeat (sink.py)
    History   read the committed history of a data directory as blocks for the sink (history.py)

docs/clickhouse.md describes the sink for operators and analysts. docs/decisions/0041 explains why rows land only once.
"""

from pipeline.clickhouse.client import Client, connect, require_packages
from pipeline.clickhouse.history import Block, History
from pipeline.clickhouse.schema import migrate, require_schema
from pipeline.clickhouse.sink import Sink

__all__ = ["Block", "Client", "History", "Sink", "connect", "migrate", "require_packages", "require_schema"]
