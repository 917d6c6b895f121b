"""The Kafka topics: names, numbers of partitions and retention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.config import Kafka

_DAY_MS: Final = 86_400_000
_FOR_EVER: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_A_MONTH: Final = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS)}
# Others write to these topics. The broker sets the time of each message, so that nobody can send one from the future.
# It unpacks what comes packed, so that a message that a worker reads is no larger than the limit.
_FROM_OTHERS: Final = {"message.timestamp.type": "LogAppendTime", "compression.type": "uncompressed"}
_NEWEST_OF_A_KEY: Final = {"cleanup.policy": "compact"}

# Room for headers, key and batch overhead. With the default message limit the sum is 1 MiB, Kafka's own default.
_ROOM_BYTES: Final = 148_588
_SAFE_REPLICAS: Final = 3  # with at least so many replicas, a message is acknowledged only once two of them have it


@dataclass(frozen=True)
class Topics:
    """The names of the topics. All names begin with `prefix`."""

    prefix: str = "weir."

    @property
    def raw(self) -> str:
        """Raw usage: chunks of files, single records, and catalogue markers."""
        return f"{self.prefix}usage.raw"

    @property
    def commands(self) -> str:
        """Commands, catalogues and ticks, in one total order (one partition)."""
        return f"{self.prefix}commands"

    @property
    def journal(self) -> str:
        """The journal entries, which are the input of the fold."""
        return f"{self.prefix}journal"

    @property
    def rated(self) -> str:
        """The outputs of the fold."""
        return f"{self.prefix}usage.rated"

    @property
    def actions(self) -> str:
        """Actions that rules requested, keyed by ICCID."""
        return f"{self.prefix}actions"

    @property
    def status(self) -> str:
        """The newest status of each SIM, keyed by ICCID (compacted)."""
        return f"{self.prefix}sim.status"

    @property
    def rejected(self) -> str:
        """Rejected records."""
        return f"{self.prefix}usage.rejected"

    @property
    def quarantine(self) -> str:
        """The places of messages that could not even become rejected records."""
        return f"{self.prefix}quarantine"

    @property
    def replies(self) -> str:
        """A reply to each message of `commands`: accepted or rejected."""
        return f"{self.prefix}replies"


@dataclass(frozen=True)
class Layout:
    """The settings with which a missing topic is created."""

    name: str
    partitions: int
    field: str  # the field of [kafka] that sets the number of partitions; empty if the topic always has one
    settings: Mapping[str, str]


def layouts(kafka: Kafka) -> list[Layout]:
    """Return the layout of every topic that the configuration asks for.

    Commands and the journal are kept for ever, because the fold replays them from the beginning if it has no state.
    Usage, rated rows, actions, rejected records and replies are kept for 30 days. Of each SIM the newest status is
    kept.
    """
    topics = Topics(kafka.prefix)
    common = {"max.message.bytes": str(largest_message_bytes(kafka))}
    if kafka.replication >= _SAFE_REPLICAS:
        common["min.insync.replicas"] = "2"
    return [
        Layout(name, partitions, of, common | kept)
        for name, partitions, of, kept in (
            (topics.raw, kafka.raw, "raw_partitions", _A_MONTH | _FROM_OTHERS),
            (topics.commands, 1, "", _FOR_EVER | _FROM_OTHERS),
            (topics.journal, kafka.partitions, "partitions", _FOR_EVER),
            (topics.rated, kafka.partitions, "partitions", _A_MONTH),
            (topics.actions, kafka.partitions, "partitions", _A_MONTH),
            (topics.status, kafka.partitions, "partitions", _NEWEST_OF_A_KEY),
            (topics.rejected, kafka.partitions, "partitions", _A_MONTH),
            (topics.replies, 1, "", _A_MONTH),
            (topics.quarantine, 1, "", _A_MONTH),
        )
    ]


def largest_message_bytes(kafka: Kafka) -> int:
    """Return the largest size of a message in bytes, including Kafka's overhead."""
    return kafka.worker_limit_bytes + _ROOM_BYTES
