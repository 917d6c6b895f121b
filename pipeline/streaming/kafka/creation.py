"""Creates the topics of Weir if they are missing, and checks those that exist."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from pipeline.config import Kafka
from pipeline.streaming.kafka.connection import FORBIDDEN, REQUEST_S, admin_of
from pipeline.streaming.topics import Layout, layouts
from rating.errors import ConfigError, WorldError


async def ensure_topics(kafka: Kafka) -> list[str]:
    """Create the missing topics and return their names.

    Raises ConfigError if an existing topic has another number of partitions than configured.
    """
    async with admin_of(kafka) as admin:
        wanted = layouts(kafka)
        found = await admin.describe_topics([layout.name for layout in wanted])
        _check_partitions(wanted, found)
        there = {one["topic"] for one in found if not one["error_code"]}
        missing = [layout for layout in wanted if layout.name not in there]
        if missing:
            new = [
                NewTopic(one.name, one.partitions, kafka.replication, topic_configs=dict(one.settings))
                for one in missing
            ]
            made = await admin.create_topics(new)
            for name, code, *said in made.topic_errors:
                if code and code != errors.TopicAlreadyExistsError.errno:  # another worker has just created it
                    _raise_not_made(kafka, name, code, said[0] if said else None)
            # Check topics that another worker created meanwhile, too.
            _check_partitions(wanted, await _led(admin, [layout.name for layout in missing]))
        return [layout.name for layout in missing]


async def require_topics(kafka: Kafka) -> None:
    """Raise ConfigError if a topic has another number of partitions than configured, or is gone.

    Faust does not see partitions that are added while it runs, so their messages would be ignored.
    """
    async with admin_of(kafka) as admin:
        wanted = layouts(kafka)
        found = await admin.describe_topics([layout.name for layout in wanted])
        gone = [one["topic"] for one in found if one["error_code"] == errors.UnknownTopicOrPartitionError.errno]
        if gone:
            raise ConfigError(
                f"topic {gone[0]}: found none any more; expected what the workers made: restore it from a mirror, or "
                "begin a new fleet with another prefix, app and history"
            )
        _check_partitions(wanted, found)


def _raise_not_made(kafka: Kafka, name: str, code: int, said: str | None) -> None:
    kind = errors.for_code(code)
    if kind in FORBIDDEN:
        raise kind(name)
    what = f"Kafka did not make topic {name}: {said or kind.__name__}"
    if kind in (errors.InvalidReplicationFactorError, errors.PolicyViolationError, errors.InvalidConfigurationError):
        raise ConfigError(f"{what}; change [kafka] (replication is {kafka.replication}), or make the topic by hand")
    raise WorldError(f"{what}; look at the broker's log, then try again")


async def _led(admin: AIOKafkaAdminClient, names: list[str]) -> list[dict[str, Any]]:
    """Wait until every partition of the topics has a leader, and return their descriptions.

    Only then can they be read and written. Raises WorldError after REQUEST_S seconds.
    """
    deadline_s = time.monotonic() + REQUEST_S
    while True:
        found: list[dict[str, Any]] = await admin.describe_topics(names)
        ready = [bool(one["partitions"]) and all(p["leader"] >= 0 for p in one["partitions"]) for one in found]
        if len(ready) == len(names) and all(ready):
            return found
        if time.monotonic() > deadline_s:
            raise WorldError(
                f"Kafka has made topics ({', '.join(names)}) that nobody leads after {REQUEST_S:.0f} s; look at the "
                "broker's log, then try again"
            )
        await asyncio.sleep(0.05)


def _check_partitions(wanted: list[Layout], found: list[dict[str, Any]]) -> None:
    counts = {one["topic"]: len(one["partitions"]) for one in found if not one["error_code"]}
    for layout in wanted:
        count = counts.get(layout.name, layout.partitions)
        if count != layout.partitions:
            advice = "name another prefix, or remove the topic if nothing in it is needed"
            if layout.field:
                advice = f"set {layout.field} = {count}, as it never changes, or {advice}"
            said = f"topic {layout.name}: found {count} partitions; [kafka] says {layout.partitions}: {advice}"
            raise ConfigError(said)
