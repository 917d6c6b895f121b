"""The Kafka client: connections, creation and check of topics, reading of partitions, sending of messages.

Failures are raised as Weir's errors within bounded time: ConfigError if the broker rejects the credentials or the
request, WorldError if it is unreachable.
"""

from pipeline.streaming.kafka import lenient as _lenient  # noqa: F401  # so that each consumer of the process reads so
from pipeline.streaming.kafka.connection import client_settings, reach
from pipeline.streaming.kafka.creation import ensure_topics, require_topics
from pipeline.streaming.kafka.log import BROKERS_TIME, Batches, Bounds, Ends, Log, LogMessage
from pipeline.streaming.kafka.publishing import Publisher, publisher_of

__all__ = [
    "BROKERS_TIME",
    "Batches",
    "Bounds",
    "Ends",
    "Log",
    "LogMessage",
    "Publisher",
    "client_settings",
    "ensure_topics",
    "publisher_of",
    "reach",
    "require_topics",
]
