"""The Kafka client: connections as [kafka] says, topics made and checked, partitions read, messages sent.

What goes wrong is told as Weir's errors within bounded time: ConfigError where the broker refuses who asks or how,
WorldError where it is away.
"""

from pipeline.streaming.kafka.connection import client_settings, reach
from pipeline.streaming.kafka.creation import ensure_topics
from pipeline.streaming.kafka.log import Batches, Ends, Log, LogMessage
from pipeline.streaming.kafka.publishing import Publisher, publisher_of

__all__ = [
    "Batches",
    "Ends",
    "Log",
    "LogMessage",
    "Publisher",
    "client_settings",
    "ensure_topics",
    "publisher_of",
    "reach",
]
