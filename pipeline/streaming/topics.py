"""The topics: what they are called, how many partitions they have, and what the broker keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.config import Kafka

_DAY_MS: Final = 86_400_000
_FOR_EVER: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_A_MONTH: Final = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS)}
_NEWEST_OF_A_KEY: Final = {"cleanup.policy": "compact"}

# Headers, a key and what a batch has besides: with the default limit of a message this is Kafka's own 1 MiB.
_ROOM_BYTES: Final = 148_588
_SAFE_REPLICAS: Final = 3  # from so many on a message counts as kept only once two of them have it


@dataclass(frozen=True)
class Topics:
    """The names of the topics, all of which begin with `prefix`."""

    prefix: str = "weir."

    @property
    def raw(self) -> str:
        """What came: chunks of files, single records, markers."""
        return f"{self.prefix}usage.raw"

    @property
    def commands(self) -> str:
        """Commands, catalogues and ticks in their one order."""
        return f"{self.prefix}commands"

    @property
    def journal(self) -> str:
        """The entries that the fold takes."""
        return f"{self.prefix}journal"

    @property
    def rated(self) -> str:
        """What the fold gave."""
        return f"{self.prefix}usage.rated"

    @property
    def actions(self) -> str:
        """Actions that rules asked for, by ICCID."""
        return f"{self.prefix}actions"

    @property
    def status(self) -> str:
        """The newest status of each SIM, by ICCID."""
        return f"{self.prefix}sim.status"

    @property
    def rejected(self) -> str:
        """Records that were refused."""
        return f"{self.prefix}usage.rejected"

    @property
    def replies(self) -> str:
        """What became of each message of `commands`."""
        return f"{self.prefix}replies"


@dataclass(frozen=True)
class Layout:
    """How a topic is made where it is missing."""

    name: str
    partitions: int
    field: str  # of [kafka], that says how many partitions it has; empty where it always has one
    settings: Mapping[str, str]


def layouts(kafka: Kafka) -> list[Layout]:
    """All topics as the configuration wants them.

    Commands and journal are kept for ever, as the fold begins with them where it has no state; usage, rated rows,
    actions and rejects for 30 days; of each SIM the newest status.
    """
    topics = Topics(kafka.prefix)
    common = {"max.message.bytes": str(largest_message_bytes(kafka))}
    if kafka.replication >= _SAFE_REPLICAS:
        common["min.insync.replicas"] = "2"
    return [
        Layout(name, partitions, of, common | kept)
        for name, partitions, of, kept in (
            (topics.raw, kafka.raw, "raw_partitions", _A_MONTH),
            (topics.commands, 1, "", _FOR_EVER),
            (topics.journal, kafka.partitions, "partitions", _FOR_EVER),
            (topics.rated, kafka.partitions, "partitions", _A_MONTH),
            (topics.actions, kafka.partitions, "partitions", _A_MONTH),
            (topics.status, kafka.partitions, "partitions", _NEWEST_OF_A_KEY),
            (topics.rejected, kafka.partitions, "partitions", _A_MONTH),
            (topics.replies, 1, "", _A_MONTH),
        )
    ]


def largest_message_bytes(kafka: Kafka) -> int:
    """What a message may take with all that Kafka puts around it."""
    return kafka.limit_bytes + _ROOM_BYTES
