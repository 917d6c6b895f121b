"""Builders for tests of the outbox: actions and their firings committed in a real data directory."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.history.writer import Landing
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory
from schemas.tables import ACTIONS, FIRINGS

FIRED_AT = dt.datetime(2026, 10, 7, 12, 30, tzinfo=dt.UTC)


def sim(number: int) -> str:
    """Return an ICCID."""
    return f"898830300000{number:07}"


@dataclass(frozen=True)
class Act:
    """One action of one firing. `firing` overrides columns of the firing."""

    offset: int
    iccid: str = field(default_factory=lambda: sim(1))
    action: str = "suspend"
    parameters: dict[str, Any] = field(default_factory=dict)
    rule: str = "quota"
    sequence: int = 1
    partition: int = 0
    firing: dict[str, Any] = field(default_factory=dict)

    @property
    def firing_id(self) -> str:
        """The id that the engine gives the firing."""
        return f"{self.partition}.{self.offset}.{self.iccid}.{self.rule}"

    @property
    def action_id(self) -> str:
        """The id that the engine gives the action."""
        return f"{self.partition}.{self.offset}.{self.iccid}.{self.sequence}.{self.rule}"


def commit(data: Path, acts: Sequence[Act], group_rows: int = 65_536) -> None:
    """Commit the actions and their firings as one checkpoint."""
    firings = {one.firing_id: firing_row(one) for one in acts}
    with (
        DataDirectory.open(data, write=True) as directory,
        directory.begin() as step,
        Background() as background,
    ):
        landing = Landing(step, background, group_rows=group_rows)
        landing.add("firings", pa.Table.from_pylist(list(firings.values()), schema=FIRINGS))
        landing.add("actions", pa.Table.from_pylist([action_row(one) for one in acts], schema=ACTIONS))
        landing.finish()
        step.commit()


def firing_row(one: Act) -> dict[str, Any]:
    """Return the action's firing as a row of FIRINGS."""
    return dict.fromkeys(FIRINGS.names) | {
        "firing_id": one.firing_id,
        "rule_id": one.rule,
        "kind": "fired",
        "trigger": "data_usage_cycle",
        "account_id": "acme",
        "iccid": one.iccid,
        "window": "2026-10",
        "unit": "bytes",
        "value_before": 900,
        "value_now": 1100,
        "size": 1000,
        "threshold": 1000,
        "levels": ["1000 bytes"],
        "used_at": FIRED_AT - dt.timedelta(minutes=5),
        "record_key": f"key-{one.offset}",
        "fired_at": FIRED_AT,
        "journal_partition": one.partition,
        "journal_offset": one.offset,
        **one.firing,
    }


def action_row(one: Act) -> dict[str, Any]:
    """Return the action as a row of ACTIONS."""
    return {
        "action_id": one.action_id,
        "firing_id": one.firing_id,
        "rule_id": one.rule,
        "sequence": one.sequence,
        "action": one.action,
        "account_id": "acme",
        "iccid": one.iccid,
        "parameters": json.dumps(one.parameters),
        "created_at": FIRED_AT,
        "journal_partition": one.partition,
        "journal_offset": one.offset,
    }


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the messages of an NDJSON file, or an empty list if it does not exist."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
