"""The ClickHouse sink: the tables of the history and their totals, in a server or in an engine inside this process.

    connect   a Client for what [clickhouse] of the configuration says (client.py)
    migrate   the tables and views, brought to this version (schema.py)
    Sink      lands rows once, whatever is killed or comes twice (sink.py)
    History   the committed history of a data directory, as blocks for the sink (history.py)

docs/clickhouse.md describes it for operators and analysts; docs/decisions/0041 says why rows land once.
"""

from pipeline.clickhouse.client import Client, connect, require_packages
from pipeline.clickhouse.history import Block, History
from pipeline.clickhouse.schema import migrate, require_schema
from pipeline.clickhouse.sink import Sink

__all__ = ["Block", "Client", "History", "Sink", "connect", "migrate", "require_packages", "require_schema"]
