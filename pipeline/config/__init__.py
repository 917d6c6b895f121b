"""The configuration file: one TOML document, weir.toml, with a table for each part of Weir that can be set up.

A new part is a module with a Table and a function that says what is wrong with one, a field of Config and a line in
_CHECKS (load.py). Secrets are never in the file: it names an environment variable or a file that has them.
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
