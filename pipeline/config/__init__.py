"""The configuration file: one TOML document, weir.toml, with a table for each configurable part of Weir.

A new part needs a module with a Table and a function that yields its problems, a field of Config, and a line in _CHECKS
(load.py). The file never contains secrets. It names environment variables or files that contain them.
"""

from pipeline.config.clickhouse import ClickHouse
from pipeline.config.kafka import Kafka
from pipeline.config.load import DEFAULT, Config, load_config, read_secret
from pipeline.config.outbox import EMAIL, FILE, Email, FileDestination, Outbox, Route, WebhookDestination
from pipeline.config.worker import EVERY_ACCOUNT, Token, Worker

__all__ = [
    "DEFAULT",
    "EMAIL",
    "EVERY_ACCOUNT",
    "FILE",
    "ClickHouse",
    "Config",
    "Email",
    "FileDestination",
    "Kafka",
    "Outbox",
    "Route",
    "Token",
    "WebhookDestination",
    "Worker",
    "load_config",
    "read_secret",
]
