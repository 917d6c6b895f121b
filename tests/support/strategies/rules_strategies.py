"""Seeded fleets for the rules: a catalogue, rules with all triggers, and six weeks of usage, ticks and commands.

A random.Random generates a fleet, so Hypothesis only has to draw the seed, however large the fleet is.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import msgspec

from schemas.cards import Account, Addon, Catalogue, Pool, PoolSize
from schemas.commands import (
    Activate,
    Blocked,
    Command,
    Connected,
    Deactivate,
    Failed,
    PlanChanged,
    Resumed,
    SessionStarted,
    SessionStopped,
    StatusChanged,
    Suspended,
)
from schemas.plans import Cycle, Zone, ZoneSet
from schemas.rules import Rule
from schemas.usage import Direction, RecordType, Service, UsageBatch
from tests.support.fold_case import Row, cards, us, usage
from tests.support.strategies.rules_drawn import rule
from tests.support.strategies.rules_plans import plans

BEGIN = dt.datetime(2026, 9, 20, 6, tzinfo=dt.UTC)
_DAYS = 42
# Two devices; the first with its check digit and with two software versions.
_IMEIS = ("356938035643809", "3569380356438011", "3569380356438012", "490154203237518")
_PLACES = [("26201", "DE"), ("26201", "DE"), ("26201", "DE"), ("20801", "FR"), (None, "GB"), (None, "FR"), (None, None)]


@dataclass(frozen=True)
class Entry:
    """A journal entry with its time of arrival. Without content, it is a tick."""

    at: dt.datetime
    usage: UsageBatch | None = None
    change: Catalogue | None = None
    commands: tuple[Command, ...] = ()
    corrects: bool = False  # The usage consists of corrections.
    answers: int | None = None  # Seed of results of the latest actions; which there are is known when it is taken.

    def answered(self, asked: Sequence[Row]) -> Entry:
        """Return the entry with results of the latest of these actions, if it is to have some."""
        if self.answers is None:
            return self
        return replace(self, commands=_answers(Random(self.answers), asked), answers=None)

    @property
    def at_us(self) -> int:
        """Time of arrival in microseconds since 1970 UTC."""
        return us(self.at)


def _answers(random: Random, asked: Sequence[Row]) -> tuple[Command, ...]:
    """Return results of some of the last suspensions and resumes: they were done, or they failed."""
    found: list[Command] = []
    for row in [one for one in asked if one["action"] in ("suspend", "resume")][-12:]:
        iccid, action_id, reason = row["iccid"], row["action_id"], json.loads(row["parameters"])["reason"]
        if random.random() < 0.3:
            found.append(Failed(action_id=action_id))
        elif row["action"] == "suspend":
            found.append(Suspended(iccid=iccid, reason=reason, action_id=random.choice((action_id, action_id, None))))
        else:
            given = random.choice(({"action_id": action_id}, {"action_id": action_id}, {}, {"reason": reason}))
            found.append(Resumed(iccid=iccid, **given))
    return tuple(one for one in found if random.random() < 0.6)


@dataclass(frozen=True)
class Fleet:
    """Journal entries in order. The first two load the catalogue and activate rules."""

    seed: int
    entries: tuple[Entry, ...]


def _card(random: Random, iccid: str, pools: int) -> Row:
    pool = random.randrange(pools) if pools and random.random() < 0.6 else None
    account = random.choice(("a", "a1", "a2", "b", "b1")) if pool is None else ("a", "a1", "b")[pool % 3]
    return {
        "iccid": iccid,
        "msisdn": f"8{iccid}",
        "imei": random.choice((None, "i1", "i2")),
        "account": account,
        "plan": random.choice(("p0", "p1", "p2", "p3", "p4", "p5")),
        "device": random.choice(("d0", "d1")),
        "pool": None if pool is None else f"q{pool}",
        "pool_until": random.choice((None, None, None, dt.date(2026, 10, 20))),
        "status": random.choice((None, None, "activated", "activated", "suspended", "testing")),
        "activated_on": random.choice((None, dt.date(2026, 9, 4), dt.date(2026, 10, 6), dt.date(2026, 8, 30))),
        "test_from": random.choice((None, dt.date(2026, 9, 10))),
        "tags": random.choice((None, ["red"], ["red", "blue"], ["blue"])),
        "custom": random.choice((None, '{"line":"one"}', '{"line":"two","site":"x"}')),
    }


def _catalogue(random: Random, iccids: list[str], pools: int, rules: list[Rule]) -> Catalogue:
    zones = (
        Zone(name="home", countries=("DE",), plmns=("20801",), home=True),
        Zone(name="world", countries=("FR", "GB")),
    )
    kinds = ("dynamic", "static", "same_tier", "dynamic")
    return Catalogue(
        accounts=(
            Account(id="a", time_zone="Europe/Berlin", tags=("gold",)),
            Account(id="a1", parent="a", time_zone="America/Los_Angeles", grace_hours=0, tags=("gold", "new")),
            Account(id="a2", parent="a1", status="closed"),
            Account(id="b", time_zone="Asia/Kolkata", grace_hours=24, status="closed"),
            Account(id="b1", parent="b", time_zone="Europe/Berlin"),
        ),
        zones=(ZoneSet(id="z", zones=zones),),
        plans=plans(),
        pools=tuple(
            Pool(
                id=f"q{number}",
                account=("a", "a1", "b")[number % 3],
                kind=kinds[number % 4],  # type: ignore[arg-type]
                size=(PoolSize(service="data", amount=80_000), PoolSize(service="sms", amount=90))
                if kinds[number % 4] == "static"
                else (),
                services=random.choice((("data",), ("data", "sms", "voice"))),
                joining=random.choice(("full", "prorate")),
                cycle=random.choice((Cycle(), Cycle(), Cycle(anchor_day=10))),
            )
            for number in range(pools)
        ),
        addons=tuple(_addon(random, f"x{number}", iccids, BEGIN) for number in range(len(iccids) // 8)),
        rules=tuple(rules),
        cards=cards(*(_card(random, iccid, pools) for iccid in iccids)),
    )


def _addon(random: Random, name: str, iccids: list[str], now: dt.datetime) -> Addon:
    return Addon(
        id=name,
        iccid=random.choice(iccids),
        service=random.choice(("data", "data", "sms", "voice")),
        amount=random.choice((3000, 20, 9000)),
        purchased_at=now + dt.timedelta(days=random.choice((-5, 0, 12))),
        expires_on=(now + dt.timedelta(days=random.choice((6, 11, 30)))).date(),
    )


def _era(now: dt.datetime) -> int:
    """Return the number of the period of four days. A session stays within such a period."""
    return (now - BEGIN).days // 4


class _Stream:
    """Generator of a fleet's usage, in order of arrival."""

    def __init__(self, random: Random, iccids: list[str], heavy: bool) -> None:
        self.random = random
        self.iccids = iccids
        self.heavy = heavy  # If true, some records are as large as hard cuts.
        self.sent: list[Row] = []
        self.corrected: list[Row] = []
        self.counters: dict[str, int] = {}
        # A few SIMs use much, and some use nothing.
        self.weights = [random.choice((0, 1, 1, 2, 2, 8)) for _ in iccids]
        self.weights[0] += 1

    def batch(self, now: dt.datetime, count: int) -> UsageBatch:
        """Return `count` records that arrive now. Some are late, and some are duplicates."""
        random = self.random
        rows = []
        for iccid in random.choices(self.iccids, self.weights, k=count):
            if self.sent and random.random() < 0.02:
                rows.append(random.choice(self.sent[-2000:]))
                continue
            rows.append(self._record(iccid, now))
            self.sent.append(rows[-1])
        return usage(*rows, received=now)

    def partials(self, now: dt.datetime, count: int) -> UsageBatch:
        """Return `count` reports of a feed with cumulative session volumes (F3)."""
        rows: list[Row] = []
        for iccid in self.random.choices(self.iccids, self.weights, k=count):
            session = f"{iccid}-{self.random.randrange(2)}-{_era(now)}"
            drawn = self.random.random()
            counted = self.counters.get(session, 0)
            # Some counters restart, and some reports come again with another key.
            counted = 0 if drawn < 0.1 else counted + (self.random.randrange(900) if drawn < 0.9 else 0)
            self.counters[session] = counted
            row = self._record(iccid, now) | {"service": Service.DATA, "direction": Direction.BOTH}
            row |= {"quantity": counted, "volume_up_bytes": None, "volume_down_bytes": None, "session_id": session}
            rows.append(row | {"record_key": f"c{len(self.counters)}-{len(self.sent)}-{len(rows)}", "sequence": None})
        return usage(*rows, received=now, feed="meter", cumulative=True)

    def corrections(self, now: dt.datetime, count: int) -> UsageBatch:
        """Return `count` reversals and replacements. Some correct a corrected record again, and some are duplicates."""
        random, rows = self.random, list[Row]()
        for _ in range(count):
            if self.corrected and random.random() < 0.1:
                rows.append(random.choice(self.corrected))
                continue
            wrong = random.choice(self.sent[-500:])
            row = wrong | {"record_key": f"x{len(self.corrected)}", "corrects_key": wrong["record_key"]}
            row["record_type"] = RecordType.REVERSE
            if random.random() < 0.5:
                row |= {"record_type": RecordType.REPLACE, "quantity": wrong["quantity"] // 2 + random.randrange(3)}
                row |= {"volume_up_bytes": None, "volume_down_bytes": None}
            rows.append(row)
            self.corrected.append(row)
        return usage(*rows, received=now)

    def _record(self, iccid: str, now: dt.datetime) -> Row:
        random = self.random
        drawn = random.random()
        hours = random.uniform(-0.9, 14) if drawn < 0.85 else random.uniform(0, 24 * (5 if drawn < 0.97 else 35))
        service = random.choices((Service.DATA, Service.SMS, Service.VOICE), (6, 2, 2))[0]
        plmn, country = random.choice(_PLACES)
        row: Row = {
            "iccid": iccid,
            "record_key": f"k{len(self.sent)}",
            "service": service,
            "used_at": now - dt.timedelta(seconds=int(hours * 3600)),
            "plmn": plmn,
            "country": country,
            "rat": random.choice((None, "LTE", "LTE", "NB-IoT")),
            "imei": random.choice((None, None, None, "i1", "i1", *_IMEIS)),
            "record_type": random.choice((RecordType.EVENT, RecordType.INTERIM, RecordType.STOP, RecordType.START)),
        }
        if service != Service.DATA:
            amount = random.choice((0, 1, 1, 1, 2)) if service == Service.SMS else random.randrange(300)
            return row | {"direction": random.choice((Direction.MO, Direction.MO, Direction.MT)), "quantity": amount}
        up, down = random.randrange(300), random.choice((0, random.randrange(1500)))
        if self.heavy and random.random() < 0.02:
            down = random.choice((1 << 29, 1 << 30, 3 << 30))
        row |= {"direction": Direction.BOTH, "quantity": up + down}
        if random.random() < 0.7:
            row |= {"volume_up_bytes": up, "volume_down_bytes": down}
        if random.random() < 0.6:
            row["session_id"] = f"{iccid}-{random.randrange(4)}-{_era(now)}"
        row["cell_id"] = random.choice((None, "c1", "c1", "c1", "c2"))
        return row


class _Changes:
    """Generator of changes of cards. `rows` has the latest row of each card, as a catalogue file would."""

    def __init__(self, random: Random, rows: list[Row]) -> None:
        self.random = random
        self.rows = {row["iccid"]: row for row in rows}
        self.bought = 0
        self.keyed: list[Command] = []

    def catalogue(self, now: dt.datetime) -> Catalogue:
        """Return a catalogue that changes a status, plan, MSISDN, IMEI, tag, custom field or pool of a few cards.

        Sometimes it has an add-on.
        """
        random, changed = self.random, []
        for iccid in random.sample(sorted(self.rows), min(len(self.rows), random.choice((1, 2, 5)))):
            row = self.rows[iccid]
            kind = random.choice(("status", "plan", "msisdn", "imei", "tags", "custom", "pool_until"))
            if kind == "status":
                row |= {"status": random.choice((None, "activated", "suspended", "silent", "cancelled"))}
            elif kind == "plan":
                row |= {"plan": random.choice(("p0", "p1", "p2", "p3", "p4", "p5")), "plan_from": now.date()}
            elif kind == "msisdn":
                row |= {"msisdn": f"8{iccid}{random.randrange(3)}"}
            elif kind == "imei":
                row |= {"imei": random.choice((None, "i1", "i2", "i3", *_IMEIS))}
            elif kind == "tags":
                row |= {"tags": random.choice((None, ["red"], ["green"]))}
            elif kind == "custom":
                fields = {"line": random.choice(("one", "two")), "site": random.choice(("x", "y"))}
                row |= {"custom": json.dumps(fields)}
            elif row["pool"] is not None:
                row |= {"pool_until": random.choice((None, now.date()))}
            changed.append(row)
        addons = []
        if random.random() < 0.5:
            self.bought += 1
            addons.append(_addon(random, f"y{self.bought}", sorted(self.rows), now))
        return Catalogue(cards=cards(*changed), addons=tuple(addons))

    def commands(self, now: dt.datetime) -> tuple[Command, ...]:
        """Return a result or an event for each of a few SIMs. Some commands are repeated with their key."""
        random, found = self.random, list[Command]()
        at = random.choice((None, now - dt.timedelta(minutes=random.randrange(600))))
        for iccid in random.sample(sorted(self.rows), min(len(self.rows), random.choice((1, 3, 8)))):
            row = self.rows[iccid]
            kind = random.randrange(8)
            if kind == 0:
                found.append(Suspended(iccid=iccid, reason="over_quota"))
                row |= {"status": "suspended", "status_reason": "over_quota"}
            elif kind == 1:
                found.append(Resumed(iccid=iccid))
                row |= {"status": "activated", "status_reason": None}
            elif kind == 2:
                status = random.choice(("silent", "silent", "activated", "suspended", "cancelled"))
                found.append(StatusChanged(iccid=iccid, status=status))
                row |= {"status": status, "status_reason": None}
            elif kind == 3:
                found.append(PlanChanged(iccid=iccid, plan=random.choice(("p0", "p1")), from_=now.date()))
                assert isinstance(found[-1], PlanChanged)
                row |= {"plan": found[-1].plan, "plan_from": now.date()}
            elif kind == 4:
                found.append(random.choice((SessionStarted, SessionStopped))(iccid=iccid, at=at))
            elif kind == 5:
                found.append(Blocked(iccid=iccid, service=random.choice(("data", "sms", "voice")), at=at))
            else:
                imei, cell = random.choice((None, "i1", "i2", *_IMEIS)), random.choice((None, "c1", "c3"))
                rat, zone = random.choice((None, "LTE", "GSM")), random.choice((None, "home"))
                found.append(Connected(iccid=iccid, imei=imei, cell_id=cell, rat=rat, zone=zone, at=at))
        # Some commands with a key are repeated, sometimes within the same entry.
        for place, one in enumerate(found):
            if random.random() < 0.3:
                found[place] = msgspec.structs.replace(one, key=f"{now:%m%d%H%M%S}-{place}")
                self.keyed.append(found[place])
        if random.random() < 0.3:
            found += random.sample(self.keyed, min(len(self.keyed), 2))
        return tuple(found)


def fleet(
    seed: int, sims: int = 200, pools: int = 20, rules: int = 40, records: int = 20_000, steps: int = 60
) -> Fleet:
    """Return a fleet over six weeks. Usage arrives `steps` times, with ticks, commands and changes in between."""
    random = Random(seed)
    iccids = [str(number) for number in range(1, 1 + sims)]
    heavy = random.random() < 0.25
    drawn = [rule(random, f"r{number}", iccids, pools, heavy) for number in range(rules)]
    catalogue = _catalogue(random, iccids, pools, drawn)
    # The engine tracks sessions only while a rule needs them. So if any rule needs them, one stays active throughout.
    hearing = [one.id for one in drawn if one.trigger in ("data_session_started", "data_session_count_24h")][:1]
    active = {one.id for one in drawn if random.random() < 0.8} | set(hearing)
    started = tuple(Activate(rule=one.id) for one in drawn if one.id in active)
    entries = [Entry(BEGIN, change=catalogue), Entry(BEGIN, commands=started)]
    stream = _Stream(random, iccids, heavy)
    changes = _Changes(random, list(catalogue.cards.iter_rows(named=True)))
    now, left = BEGIN, records
    for step in range(steps):
        now += dt.timedelta(seconds=random.randrange(1, 2 * _DAYS * 86_400 // steps))
        if random.random() < 0.5:
            entries.append(Entry(now))
        if random.random() < 0.4:
            entries.append(Entry(now, change=changes.catalogue(now)))
        if random.random() < 0.4:
            entries.append(Entry(now, commands=changes.commands(now)))
        if random.random() < 0.4:
            entries.append(Entry(now, answers=random.randrange(1 << 32)))
        if random.random() < 0.2 and (switched := _switched(random, drawn, hearing, active)):
            entries.append(Entry(now, commands=switched))
        if stream.sent and random.random() < 0.2:
            entries.append(Entry(now, usage=stream.corrections(now, random.randrange(1, 5)), corrects=True))
        count = left // (steps - step)
        left -= count
        if count and random.random() < 0.2:
            entries.append(Entry(now, usage=stream.partials(now, max(1, count // 3))))
        if count:
            entries.append(Entry(now, usage=stream.batch(now, count)))
    entries.append(Entry(now + dt.timedelta(days=1)))
    return Fleet(seed, tuple(entries))


def _switched(random: Random, rules: list[Rule], hearing: list[str], active: set[str]) -> tuple[Command, ...]:
    """Activate or deactivate a few rules: return the commands and update `active`."""
    found: list[Command] = []
    for one in random.sample(rules, min(len(rules), random.choice((1, 1, 3)))):
        if one.id in hearing:
            continue
        if one.id in active:
            found.append(Deactivate(rule=one.id))
            active.remove(one.id)
        else:
            found.append(Activate(rule=one.id))
            active.add(one.id)
    return tuple(found)


def shown(found: Fleet) -> str:
    """Return the rules of a fleet as JSON lines, for the message of a failing test."""
    change = found.entries[0].change
    assert change is not None
    return "\n".join(msgspec.json.encode(one).decode() for one in change.rules)
