"""What a scenario is made of: happenings at moments, said without regard to who carries them out."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.commands import Command


@dataclass(frozen=True, kw_only=True)
class Happening:
    """Something that comes at a moment."""

    at: dt.datetime


@dataclass(frozen=True, kw_only=True)
class Apply(Happening):
    """A catalogue file."""

    toml: str


@dataclass(frozen=True, kw_only=True)
class Ingest(Happening):
    """A feed file; `suffix` is how its name ends."""

    feed: str
    content: bytes
    suffix: str


@dataclass(frozen=True, kw_only=True)
class Singles(Happening):
    """Single records, where the driver takes such; else a file of them. `header` is the header line of CSV."""

    feed: str
    lines: tuple[bytes, ...]
    header: bytes


@dataclass(frozen=True, kw_only=True)
class Say(Happening):
    """Commands that come together."""

    commands: tuple[Command, ...]


@dataclass(frozen=True, kw_only=True)
class Answer(Happening):
    """The result of an action: that of `rule` for the SIM of the command with this sequence, the `nth` of them."""

    command: Any
    rule: str
    sequence: int = 1
    nth: int = 0


@dataclass(frozen=True, kw_only=True)
class Tick(Happening):
    """The clock."""


@dataclass(frozen=True)
class Scenario:
    """Happenings in the order of their moments, and what must come of them.

    All ICCIDs begin with `sims`, which no other scenario has, and so do the numbers that it makes up. `expects` is
    what `summary` of tests.scenarios.history finds.
    """

    name: str
    number: int
    happenings: tuple[Happening, ...]
    expects: dict[str, Any] = field(default_factory=dict)

    @property
    def sims(self) -> str:
        """What the ICCIDs begin with."""
        return sim(self.number)[:6]


def sim(number: int, card: int = 1) -> str:
    """The ICCID of a card of the scenario with this number."""
    return f"8988{number:02}{card:013}"


def imsi(number: int, card: int = 1) -> str:
    """The IMSI of such a card."""
    return f"90140{number:02}{card:08}"


def msisdn(number: int, card: int = 1) -> str:
    """The MSISDN of such a card."""
    return f"8822{number:02}{card:07}"


def oct_(day: int, hour: int = 12, minute: int = 0) -> dt.datetime:
    """A moment of October 2026."""
    return dt.datetime(2026, 10, day, hour, minute, tzinfo=dt.UTC)


def nov(day: int, hour: int = 12, minute: int = 0) -> dt.datetime:
    """A moment of November 2026."""
    return dt.datetime(2026, 11, day, hour, minute, tzinfo=dt.UTC)


def stamp(moment: dt.datetime) -> str:
    """A moment as feeds write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def used(key: str, iccid: str | None, quantity: int | str, at: dt.datetime | str, **more: Any) -> dict[str, Any]:
    """A record of the plain feed, of data where it does not say."""
    row = {"record_key": key, "service": "data", "quantity": quantity}
    row |= {} if iccid is None else {"iccid": iccid}
    return row | {"used_at": at if isinstance(at, str) else stamp(at)} | more


def csv_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as a CSV file; columns are those that any row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def plain(at: dt.datetime, *rows: dict[str, Any]) -> Ingest:
    """A file of the plain feed."""
    return Ingest(at=at, feed="plain", content=csv_of(rows), suffix=".csv")


def singles(at: dt.datetime, *rows: dict[str, Any]) -> Singles:
    """Single records of the plain feed."""
    header, *lines = csv_of(rows).splitlines()
    return Singles(at=at, feed="plain", lines=tuple(lines), header=header)
