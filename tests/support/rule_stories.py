"""Stories of one SIM: entries at a number of hours after a rule was activated."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from schemas.cards import Account, Catalogue, Pool, PoolSize
from schemas.commands import Command
from schemas.plans import Increment, Plan, Rate, ServiceName, Zone, ZoneSet
from schemas.rules import Action, Rule
from schemas.usage import Direction, Service
from tests.support.fold_case import Row, cards, plan, usage
from tests.support.rules_case import Fold, begin
from tests.support.strategies.rules_strategies import Entry

_SERVICES: tuple[ServiceName, ...] = ("data", "sms", "voice")
TELL = Action(sequence=1, type="notify", by=("system",))
SINCE = dt.datetime(2026, 9, 20, 6, tzinfo=dt.UTC)
WAYS = {Service.DATA: Direction.BOTH, Service.SMS: Direction.MO, Service.VOICE: Direction.MO}
_CARD: Row = {
    "iccid": "1",
    "account": "a1",
    "plan": "p",
    "msisdn": "81",
    "imei": "i1",
    "tags": ["red"],
    "custom": '{"line":"one"}',
    "activated_on": dt.date(2026, 9, 4),
    "term_months": 2,
}


@dataclass
class Step:
    """One entry: a record, a command, a change of card 1, or a tick. `hours` count from the rule's activation."""

    hours: float
    row: Row | None = None
    command: Command | None = None
    card: Row | None = None

    def entry(self) -> Entry:
        """Return the journal entry. The time of use of a record is its arrival."""
        at = SINCE + dt.timedelta(hours=self.hours)
        if self.row is not None:
            known = {"iccid": "1", "used_at": at, "record_key": f"k{self.hours}", "country": "DE", "rat": "LTE"}
            return Entry(at, usage=usage(known | self.row, received=at))
        if self.card is not None:
            return Entry(at, change=Catalogue(cards=cards(_CARD | self.card)))
        return Entry(at, commands=(self.command,)) if self.command is not None else Entry(at)


Story = list[Step]


def hours_to(day: int, month: int = 10, hour: float = 12) -> float:
    """Return the hours from the activation to a time in 2026 (UTC)."""
    moment = dt.datetime(2026, month, day, tzinfo=dt.UTC) + dt.timedelta(hours=hour)
    return (moment - SINCE) / dt.timedelta(hours=1)


def used(hours: float, quantity: int = 1, service: Service = Service.DATA, **fields: Any) -> Step:
    """Return a step with one usage record."""
    row = {"service": service, "direction": WAYS[service], "quantity": quantity}
    return Step(hours, row=row | fields)


def said(hours: float, command: Command) -> Step:
    """Return a step with one command."""
    return Step(hours, command=command)


def changed(hours: float, **card: Any) -> Step:
    """Return a step with a catalogue that changes fields of card 1."""
    return Step(hours, card=card)


def plans() -> list[Plan]:
    """Return a plan with 1000 bytes in the home zone and 500 elsewhere, and a plan with 9000 bytes in the home zone."""
    whole = Increment(round="none")
    kept = [Rate(service="sms", allowance=50), Rate(service="voice", allowance=600, increment=whole)]

    def made(name: str, home: int) -> Plan:
        rates = [Rate(service="data", zone="home", allowance=home, increment=whole)]
        rates.append(Rate(service="data", zone="world", allowance=500, increment=whole))
        return plan(*rates, *kept, name=name, zones="z", default_zone="world")

    return [made("p", 1000), made("big", 9000)]


def world(rule: Rule, **card: Any) -> Fold:
    """Return an engine with the active rule and three cards.

    Card 1 has the fields `card`, and is in the account a1 below a unless these change it. Cards 2 and 3 are in pools.
    """
    fold = Fold()
    sizes = tuple(PoolSize(service=one, amount=1000) for one in _SERVICES)
    begin(
        fold, rule, plans=plans(), at=SINCE,
        card_rows=[_CARD | card, {"iccid": "2", "pool": "q"}, {"iccid": "3", "pool": "r"}],
        accounts=(
            Account(id="a", tags=("tin",), status="closed"), Account(id="a1", parent="a", tags=("gold",)),
            Account(id="a2", parent="a"), Account(id="b"),
        ),
        zones=(ZoneSet(id="z", zones=(Zone(name="home", countries=("DE",), home=True),
                                      Zone(name="world", countries=("FR",)))),),
        pools=tuple(Pool(id=name, account="a", kind="static", size=sizes, services=_SERVICES) for name in ("q", "r")),
    )  # fmt: skip
    return fold


def last_fires(fold: Fold, story: Story) -> list[str]:
    """Play a story and return the ICCIDs for which rules fire at its last entry."""
    for step in story[:-1]:
        fold.take(step.entry())
    before = len(fold.fired)
    fold.take(story[-1].entry())
    return [row["iccid"] for row in fold.fired[before:]]
