"""Rules on usage fire past their thresholds, once each as they should, in whatever batches records come (L7 to L11)."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rating.engine import Engine
from rating.rules.active_rules import RuleSet
from rating.rules.detect.traffic import Traffic
from rating.rules.detect.usage import adjust, backfill, baseline_scope, expire, usage_fires
from rating.rules.firing.firings import NONE, Fires, Labels
from rating.rules.firing.repetition import Memory, Occurrences
from rating.rules.state import RuleState
from rating.rules.totals.current import total_of
from rating.rules.totals.cycle_and_day import BASELINE
from rating.usage.cycles import cycle_code, cycle_days, cycle_label
from schemas.cards import Account, Pool, PoolSize
from schemas.plans import Plan, PlanVersion, Rate, Zone, ZoneSet
from schemas.rules import Action, Filter, Rule
from schemas.tables import RATED
from schemas.usage import USAGE_SCHEMA, Direction, Service
from tests.support.fold_case import SINCE, engine, us

ZONES = ZoneSet(id="z", zones=(Zone(name="home", countries=("DE",), home=True), Zone(name="far", countries=("US",))))
PLAN = Plan(
    id="p",
    currency="EUR",
    versions=tuple(
        PlanVersion(
            version=number,
            effective=day,
            zones="z",
            rates=(Rate(service="data", allowance=quota, counter="data"), Rate(service="sms", allowance=6)),
        )
        for number, day, quota in ((1, SINCE, 10), (2, dt.date(2026, 10, 30), 4))
    ),
)
COUNTRIES = ["DE", "US"]
GRACE = {"a": 24, "b": 48}
POOL_SIZE = 9
FIRST = us(dt.datetime(2026, 10, 28, tzinfo=dt.UTC))
HOUR = 3_600_000_000
DAY = 24 * HOUR


@dataclass(frozen=True)
class Record:
    """A record as rules see it; `hour` is when it was used, counted from FIRST."""

    card: int = 0
    service: Service = Service.DATA
    hour: float = 0.0
    units: int = 1
    zone: int = 0
    pooled: bool = False
    started: bool = False
    rat: str | None = None

    @property
    def used_us(self) -> int:
        return FIRST + int(self.hour * HOUR)

    @property
    def day(self) -> int:
        return self.used_us // DAY

    @property
    def version(self) -> int:
        return int(self.day >= (dt.date(2026, 10, 30) - dt.date(1970, 1, 1)).days)


def world(*rules: Rule) -> tuple[Engine, RuleSet]:
    """Cards 0 and 1 of account a, 2 of its sub-account b; all rules active."""
    rows = [{"iccid": str(card), "account": account, "tags": [account]} for card, account in enumerate("aab")]
    accounts = (Account(id="a", grace_hours=GRACE["a"]), Account(id="b", parent="a", grace_hours=GRACE["b"]))
    pool = Pool(id="q", account="a", kind="static", size=(PoolSize(service="data", amount=POOL_SIZE),))
    weir = engine(PLAN, card_rows=tuple(rows), accounts=accounts, zones=(ZONES,), pools=(pool,), rules=rules)
    weir.state.rules.active = {rule.id: 0 for rule in rules}
    return weir, RuleSet(weir.state, weir.compiled, weir.names.zones)


def traffic(weir: Engine, records: list[Record], received_us: int, clock_us: int, offset: int = 0) -> Traffic:
    """The records as traffic; each in the cycle of its day."""
    book = weir.compiled.book
    count = len(records)

    def column(name: str) -> np.ndarray:
        return np.array([int(getattr(one, name)) for one in records], np.int64)

    day = column("day")
    cycle = cycle_code(0, book.cycle_calendars[0].index(day.astype(np.int32)).astype(np.int64))
    days = np.array([cycle_days(book, int(code)) for code in cycle], np.int64).reshape(-1, 2)
    zone = column("zone")
    names = [weir.names.zones.index(name) for name in ("home", "far")]
    service = column("service")
    rows = pl.DataFrame({"rat": [one.rat for one in records]}, schema={"rat": USAGE_SCHEMA["rat"]})
    return Traffic(
        received_us=received_us,
        clock_us=clock_us,
        offset=offset + np.arange(count),
        place=np.arange(count),
        card=column("card"),
        account=column("card") // 2,
        version=column("version"),
        service=service,
        direction=np.where(service == Service.DATA, int(Direction.BOTH), int(Direction.MO)),
        zone=np.array(names)[zone],
        country=zone,
        countries=COUNTRIES,
        used_us=column("used_us"),
        day=day,
        today=np.full(count, received_us // DAY),
        pool=np.where(column("pooled") > 0, 0, -1),
        cycle=cycle,
        cycle_start=days[:, 0],
        cycle_end=days[:, 1],
        units=column("units"),
        home_units=np.where(zone == 0, column("units"), 0),
        pool_units=np.where(zone == 0, column("units"), 0),
        overage=np.zeros(count, np.int64),
        started=column("started") > 0,
        stopped=np.zeros(count, bool),
        rows=rows,
    )


Firing = tuple[Any, ...]


def firings(fires: list[Fires]) -> list[Firing]:
    """(offset, rule, card, before, now, level, known, threshold, size, pool, label), sorted."""
    found = []
    for one in fires:
        assert isinstance(one.label, Labels)
        assert np.array_equal(one.offset, np.sort(one.offset))
        columns = (one.offset, one.card, one.before, one.now, one.level, one.known, one.threshold, one.size, one.pool)
        for offset, card, *rest, label in zip(*(column.tolist() for column in columns), one.label.text(), strict=True):
            found.append((offset, one.rule, card, *rest, label))
    return sorted(found)


class Slow:
    """One record at a time: every total is a dictionary, every rule is looked at."""

    def __init__(self, weir: Engine, ruleset: RuleSet) -> None:
        self.weir, self.watches = weir, ruleset.watches
        self.totals: dict[Any, int] = defaultdict(int)
        self.heard: dict[Any, list[tuple[int, int]]] = defaultdict(list)
        self.memory: dict[Any, tuple[int, int]] = {}

    def batch(self, records: list[Record], received_us: int, clock_us: int, offset: int) -> list[Firing]:
        """The firings of records that arrive together."""
        found = []
        for place, record in enumerate(records):
            moved: set[Any] = set()
            for watch in self.watches:
                total = self._total(watch.rule, watch.trigger, record, clock_us, moved)
                if total is not None and total[1] > total[0]:
                    fired = self._fire(watch, record, received_us // DAY, *total)
                    found += [(offset + place, watch.row, record.card, *fired)] if fired is not None else []
        return sorted(found)

    def _total(self, rule: Rule, trigger: Any, record: Record, clock_us: int, moved: set[Any]) -> Any:
        amount = int(record.started) if trigger.unit == "sessions" else record.units
        if trigger.service != record.service or trigger.direction == Direction.MT:
            return None
        if rule.country not in (None, COUNTRIES[record.zone]) or rule.zone not in (None, ("home", "far")[record.zone]):
            return None
        if trigger.place == "home" and record.zone != 0:
            return None
        if trigger.kind == "pool" and not record.pooled:
            return None
        grace = GRACE["aab"[record.card]] * HOUR
        cycle = str(dt.date.fromtimestamp(0) + dt.timedelta(days=record.day))[:7]
        subject: Any = "pool" if trigger.kind == "pool" else record.card
        what = (subject, trigger.service, trigger.direction, trigger.unit, rule.country, rule.zone, trigger.place)
        if trigger.window == "day" and rule.window == "rolling":
            floor = (clock_us - grace) // (HOUR // 4) - 95
            quarter = record.used_us // (HOUR // 4)
            if quarter < floor:
                return None
            if what not in moved:
                self.heard[what].append((quarter, amount))
                moved.add(what)
            latest = max(one for one, _ in self.heard[what])
            if quarter < latest - 95:
                return None
            now = sum(units for one, units in self.heard[what] if one >= max(latest - 95, floor))
            return now - amount, now, self._name(record.day)
        window: Any = cycle
        if trigger.window == "day":
            if clock_us > (record.day + 1) * DAY + grace:
                return None
            window = record.day
        key = (*what, trigger.window, window)
        if key not in moved:
            self.totals[key] += amount
            moved.add(key)
        return self.totals[key] - amount, self.totals[key], window if window == cycle else self._name(record.day)

    @staticmethod
    def _name(day: int) -> str:
        return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()

    def _fire(self, watch: Any, record: Record, today: int, before: int, now: int, window: str) -> Firing | None:
        rule = watch.rule
        for one in rule.filters:
            has = {"sim_tag": "aab"[record.card], "zone": ("home", "far")[record.zone], "rat": record.rat}[one.type]
            if has not in one.values:
                return None
        if rule.owner == "b" and record.card != 2:
            return None
        quota = {Service.DATA: (10, 4), Service.SMS: (6, 6)}[record.service][record.version]
        sizes: dict[str, int | None] = {"pool": POOL_SIZE, "home": quota, "": None}
        percent = "%" in str(rule.levels[0] if rule.levels else "100 %")
        size = None
        if watch.trigger.kind == "pool":
            size = sizes["pool"] if percent else None
        elif percent or rule.measure in ("over", "remaining"):
            size = quota
        level, threshold = 0, None
        reach = rule.at == "reached" or watch.trigger.reached or rule.measure == "remaining"
        for one in rule.levels or ("100 %",):
            line = float(str(one).removesuffix("%")) * (size or 0) / 100 if percent else float(one)
            line = (size or 0) + line if rule.measure == "over" else line
            line = (size or 0) - line if rule.measure == "remaining" else line
            if now >= line if reach else now > line:
                level += 1
                threshold = int(-(-line // 1)) if reach else int(line // 1)
        if not level:
            return None
        key = (watch.row, record.card, None if rule.repetition == "once" else window)
        known, fired_on = self.memory.get(key, (0, -1))
        if rule.repetition == "daily" and today <= fired_on:
            return None
        if rule.repetition in ("once", "once_per_window") and level <= known:
            return None
        self.memory[key] = (max(level, known), today)
        pool = 0 if watch.trigger.kind == "pool" else NONE
        return before, now, level, known, threshold, NONE if size is None else size, pool, window


CHOICES: list[dict[str, Any]] = [
    {"trigger": "data_usage_cycle", "threshold": (3, 8, 20)},
    {"trigger": "data_usage_cycle", "threshold": ("50 %", "100 %")},
    {"trigger": "data_usage_cycle", "threshold": ("80 %", "20 %"), "measure": "remaining"},
    {"trigger": "data_usage_24h", "threshold": (2, 6)},
    {"trigger": "data_usage_24h", "threshold": (3, 5), "window": "rolling"},
    {"trigger": "data_session_count_24h", "threshold": 1, "window": "rolling"},
    {"trigger": "data_session_count_24h", "threshold": (1, 2), "at": "reached"},
    {"trigger": "data_usage_country_cycle", "threshold": 4, "country": "US"},
    {"trigger": "data_usage_zone_cycle", "threshold": (0, 4), "zone": "home"},
    {"trigger": "sms_mo_count_24h", "threshold": 2},
    {"trigger": "sms_mt_count_cycle", "threshold": 0},
    {"trigger": "price_plan_expired", "by": "data"},
    {"trigger": "pool_data_usage", "threshold": ("50 %", "120 %")},
    {"trigger": "pool_data_usage", "threshold": 5, "pools": ("q",)},
]
FILTERS = [(), (Filter(type="sim_tag", values=("b",)),), (Filter(type="rat", values=("LTE",)),)]


@st.composite
def rule_sets(draw: st.DrawFn) -> tuple[Rule, ...]:
    """A few rules, each with a repetition and perhaps a filter."""
    found = []
    for number, choice in enumerate(draw(st.lists(st.sampled_from(CHOICES), min_size=1, max_size=5))):
        repetition = draw(st.sampled_from(["once", "once_per_window", "daily", "always"]))
        filters = () if choice["trigger"].startswith("pool") else draw(st.sampled_from(FILTERS))
        if any(one.type == "zone" for one in filters):
            choice = choice | {"owner": "a"}
        found.append(Rule(id=f"r{number}", repetition=repetition, filters=filters, **choice))
    return tuple(found)


RECORDS = st.builds(
    Record,
    card=st.integers(0, 2),
    service=st.sampled_from([Service.DATA, Service.DATA, Service.DATA, Service.SMS]),
    hour=st.integers(0, 500).map(lambda quarter: quarter / 4),
    units=st.integers(0, 4),
    zone=st.integers(0, 1),
    pooled=st.booleans(),
    started=st.booleans(),
    rat=st.sampled_from([None, "LTE", "NB-IoT"]),
)
BATCHES = st.lists(
    st.tuples(st.lists(RECORDS, max_size=15), st.sampled_from([0, 1, 20, 40, 80])), min_size=1, max_size=4
)


@settings(deadline=None)
@given(rule_sets(), BATCHES, st.data())
def test_rules_fire_as_record_by_record_and_in_any_cut(
    rules: tuple[Rule, ...], batches: list[tuple[list[Record], int]], data: st.DataObject
) -> None:
    """Whole batches, the same batches cut and with expiry and snapshots in between, and a slow loop all agree."""
    weir, ruleset = world(*rules)
    whole, cut, slow = RuleState(), RuleState(), Slow(weir, ruleset)
    received, offset = FIRST + DAY, 0
    for records, hours in batches:
        received += hours * HOUR
        expected = slow.batch(records, received, received, offset)
        one = usage_fires(ruleset, whole, traffic(weir, records, received, received, offset))
        assert expected == firings(one)
        at = data.draw(st.integers(0, len(records)))
        parts = [
            found
            for start, part in ((0, records[:at]), (at, records[at:]))
            for found in usage_fires(ruleset, cut, traffic(weir, part, received, received, offset + start))
        ]
        assert expected == firings(parts)
        if data.draw(st.booleans()):
            expire(ruleset, cut, received)
            tables = cut.tables()
            cut = replace(
                cut,
                totals=type(cut.totals).from_table(tables["rule_totals"]),
                rolling=type(cut.rolling).from_table(tables["rule_rolling"]),
            )
        offset += len(records)
    for state in (whole, cut):
        expire(ruleset, state, received)
    assert whole.totals.to_table().equals(cut.totals.to_table())
    assert whole.rolling.to_table().equals(cut.rolling.to_table())


def run(rules: tuple[Rule, ...], *records: Record) -> list[Firing]:
    """The firings of one batch."""
    weir, ruleset = world(*rules)
    return firings(usage_fires(ruleset, RuleState(), traffic(weir, list(records), FIRST + DAY, FIRST + DAY)))


def test_a_rule_that_starts_past_its_threshold_fires_at_the_next_use() -> None:
    """It need not be the crossing itself; a record of no units fires nothing."""
    rule = Rule(id="r", trigger="data_usage_cycle", threshold=10)
    weir, ruleset = world(rule)
    state = RuleState()
    backfill(ruleset, state, history(units=30), ruleset.watches)
    batch = traffic(weir, [Record(units=0), Record(units=2), Record(units=2)], FIRST + DAY, FIRST + DAY)
    assert [(1, 0, 0, 30, 32, 1, 0, 10, NONE, NONE, "2026-10")] == firings(usage_fires(ruleset, state, batch))


def test_a_firing_says_where_it_came_from() -> None:
    """Time of use and row of the batch are those of the record, the window that of the memory."""
    rule = Rule(id="r", trigger="data_usage_24h", threshold=1)
    weir, ruleset = world(rule)
    batch = traffic(weir, [Record(units=1), Record(units=1, hour=1.5)], FIRST + DAY, FIRST + DAY)
    (fires,) = usage_fires(ruleset, RuleState(), batch)
    assert [FIRST + HOUR * 3 // 2] == fires.used_us.tolist()
    assert [1] == fires.place.tolist()
    assert [FIRST // DAY] == fires.window.tolist()


def test_a_suspension_that_ends_by_itself_is_held() -> None:
    """Memory knows which firings a resume will follow (L1)."""
    action = Action(sequence=1, type="suspend", until="window_end")
    weir, ruleset = world(Rule(id="r", trigger="data_usage_cycle", threshold=1, actions=(action,)))
    state = RuleState()
    usage_fires(ruleset, state, traffic(weir, [Record(units=5)], FIRST + DAY, FIRST + DAY))
    assert [1] == state.memory["held"].tolist()


def test_usage_older_than_the_grace_is_not_in_the_rolling_24_hours() -> None:
    """A quarter counts while the 24 hours before the clock less the account's grace reach back to it (T4, T5)."""
    weir, ruleset = world(Rule(id="r", trigger="data_usage_24h", threshold=0, window="rolling"))
    now = FIRST + 2 * DAY
    records = [Record(card=0), Record(card=1, hour=0.25), Record(card=2)]
    found = firings(usage_fires(ruleset, RuleState(), traffic(weir, records, now, now)))
    assert [1, 2] == [card for _, _, card, *_ in found]


def test_every_sim_that_uses_a_spent_pool_is_a_target() -> None:
    """Each once per window, however much it goes on (L8)."""
    rule = Rule(id="r", trigger="pool_data_usage", threshold="100 %")
    records = [Record(card=card, units=6, pooled=True) for card in (0, 1, 1, 2)]
    assert [(1, 1), (3, 2)] == [(offset, card) for offset, _, card, *_ in run((rule,), *records)]


def test_usage_abroad_and_of_other_pools_does_not_fill_a_pool() -> None:
    """A pool rule looks at the home zone, and at the pools that it names (L8)."""
    named = Rule(id="r", trigger="pool_data_usage", threshold=1, pools=("other",))
    every = Rule(id="s", trigger="pool_data_usage", threshold=6)
    records = [Record(units=6, pooled=True, zone=1), Record(units=5, pooled=True), Record(units=5)]
    assert [] == run((named, every), *records)


def test_hard_cuts_and_home_allowances_go_by_the_plan() -> None:
    """The tier of the plan says where a cut is; the home allowance is used up by usage on its counter (L2, L7)."""
    home = Rule(id="h", trigger="home_data_allowance", threshold=("50 %", "100 %"))
    cut = Rule(id="c", trigger="data_usage_cycle", measure="hard_cut")
    records = [Record(units=5), Record(units=90, zone=1), Record(units=3 << 30, zone=1), Record(units=5)]
    found = run((home, cut), *records)
    assert [(0, 0, 5, 1), (2, 1, 3 << 30, 1), (3, 0, 10, 2)] == [
        (offset, rule, threshold, level) for offset, rule, _, _, _, level, _, threshold, *_ in found
    ]


def history(**facts: Any) -> pl.DataFrame:
    """One row of BASELINE: data of card 0 at home."""
    row: dict[str, Any] = {
        "iccid": "0", "subject_kind": "sim", "subject": "0", "service": "data", "direction": "both", "country": "DE",
        "zone": "home", "cycle": "2026-10", "day": dt.date(2026, 10, 28), "quarter": FIRST // (HOUR // 4),
        "plan_id": "p", "plan_version": 1, "rate": "data", "units": 7, "sessions": 2,
    }  # fmt: skip
    return pl.DataFrame([row | facts], schema=BASELINE)


ALL_SLICES = (
    Rule(id="cycle", trigger="data_usage_cycle", threshold=1),
    Rule(id="day", trigger="data_usage_24h", threshold=1),
    Rule(id="rolling", trigger="data_usage_24h", threshold=1, window="rolling"),
    Rule(id="sessions", trigger="data_session_count_24h", threshold=1),
    Rule(id="country", trigger="data_usage_country_cycle", threshold=1, country="DE"),
    Rule(id="far", trigger="data_usage_zone_cycle", threshold=1, zone="far"),
    Rule(id="home", trigger="home_data_allowance", threshold=1),
    Rule(id="pool", trigger="pool_data_usage", threshold=1),
    Rule(id="sms", trigger="sms_mo_count_cycle", threshold=1),
)


def totals(ruleset: RuleSet, state: RuleState) -> dict[str, int]:
    """What each rule finds for card 0 (or the pool) at FIRST."""
    day = np.array([FIRST // DAY])
    book = ruleset.book
    cycle = cycle_code(0, book.cycle_calendars[0].index(day.astype(np.int32)).astype(np.int64))
    assert "2026-10" == cycle_label(book, int(cycle[0]))
    return {
        watch.rule.id: int(
            total_of(state, watch, np.array([0]), cycle if watch.trigger.window == "cycle" else day, FIRST)[0]
        )
        for watch in ruleset.watches
    }


def test_new_slices_start_from_history() -> None:
    """Every slice takes from a row what is its own."""
    _, ruleset = world(*ALL_SLICES)
    state = RuleState()
    backfill(ruleset, state, history(), ruleset.watches)
    expected = {"cycle": 7, "day": 7, "rolling": 7, "sessions": 2, "country": 7, "far": 0, "home": 7, "pool": 0}
    assert expected | {"sms": 0} == totals(ruleset, state)
    state = RuleState()
    backfill(ruleset, state, history(subject_kind="pool", subject="q", day=None, quarter=None), ruleset.watches)
    expected |= {"day": 0, "rolling": 0, "sessions": 0, "pool": 7}
    assert expected | {"sms": 0} == totals(ruleset, state)


@pytest.mark.parametrize(
    "facts", [{"iccid": "9"}, {"plan_id": "none"}, {"plan_version": 9}, {"service": "voice"}, {"cycle": "2026-10-07"}]
)
def test_history_of_what_is_gone_counts_nowhere(facts: dict[str, Any]) -> None:
    """Cards, plans and cycles that the catalogue does not have are left out."""
    _, ruleset = world(ALL_SLICES[0])
    state = RuleState()
    backfill(ruleset, state, history(**facts), ruleset.watches)
    assert {"cycle": 0} == totals(ruleset, state)


def test_a_slice_that_is_kept_is_not_filled_again() -> None:
    """Another rule on the same slice finds the total as it runs."""
    _, ruleset = world(*ALL_SLICES[:2])
    state = RuleState()
    backfill(ruleset, state, history(), ruleset.watches[:1])
    backfill(ruleset, state, history(), ruleset.watches)
    assert {"cycle": 7, "day": 7} == totals(ruleset, state)


@pytest.mark.parametrize("kind", ["usage", "reversal"])
def test_a_reversal_lowers_totals_and_fires_nothing(kind: str) -> None:
    """All slices of the row go down, whether a row is taken off or an adjustment is added; sessions stay."""
    _, ruleset = world(*ALL_SLICES)
    state = RuleState()
    backfill(ruleset, state, history(), ruleset.watches)
    sign = -1 if kind == "reversal" else 1
    used_at = dt.datetime.fromtimestamp(FIRST / 1e6, dt.UTC)
    row = history().to_dicts()[0] | {"kind": kind, "used_at": used_at}
    row |= {"billable_quantity": sign * 5, "from_test": sign * 1}
    row = {name: row.get(name) for name in RATED.names}
    one, none = pa.Table.from_pylist([row], schema=RATED), list[pa.Table]()
    adjust(ruleset, state, *((none, [one]) if kind == "usage" else ([one], none)))
    expected = {"cycle": 3, "day": 3, "rolling": 3, "sessions": 2, "country": 3, "far": 0, "home": 3, "pool": 0}
    assert expected | {"sms": 0} == totals(ruleset, state)
    assert not len(state.memory)


def test_what_no_rule_looks_at_is_forgotten() -> None:
    """A total that would stand still is dropped, so that it is filled anew when a rule needs it again."""
    weir, ruleset = world(*ALL_SLICES)
    state = RuleState()
    backfill(ruleset, state, history(), ruleset.watches)
    weir.state.rules.active = {"day": 0}
    fewer = RuleSet(weir.state, weir.compiled, weir.names.zones)
    expire(fewer, state, FIRST)
    assert {"data/day"} == state.totals.slices | state.rolling.slices
    assert {"day": 7} == totals(fewer, state)


def test_windows_that_can_take_no_more_are_dropped() -> None:
    """Nothing that a later record could meet is lost; the rest leaves the tables."""
    _, ruleset = world(*ALL_SLICES)
    state = RuleState()
    backfill(ruleset, state, history(), ruleset.watches)
    expire(ruleset, state, FIRST + 2 * DAY)
    assert 7 == totals(ruleset, state)["rolling"]
    expire(ruleset, state, FIRST + 10 * DAY)
    assert 0 == totals(ruleset, state)["rolling"] == totals(ruleset, state)["day"] == totals(ruleset, state)["cycle"]
    assert len(state.totals.slices) == state.totals.to_table().num_rows == 8


def test_the_scope_of_a_baseline_covers_what_is_open() -> None:
    """Cycles up to the longest grace after their end, and days that windows of 24 hours still look at."""
    _, ruleset = world(ALL_SLICES[0])
    scope = baseline_scope(ruleset, Memory(), us(dt.datetime(2026, 11, 2, tzinfo=dt.UTC)))
    assert ["2026-10", "2026-11"] == scope["cycles"]
    assert dt.date(2026, 10, 28) == scope["first_day"]
    assert ["2026-10"] == baseline_scope(ruleset, Memory(), us(dt.datetime(2026, 10, 20, tzinfo=dt.UTC)))["cycles"]


def test_the_scope_of_a_baseline_covers_what_holds_suspensions() -> None:
    """A rule that starts anew finds the totals of windows that are over but still hold a SIM (L1, L2)."""
    suspend = (Action(sequence=1, type="suspend", until="recovered"),)
    rules = (
        Rule(id="cycle", trigger="data_usage_cycle", threshold=1, actions=suspend),
        Rule(id="day", trigger="data_usage_24h", threshold=1, actions=suspend),
    )
    weir, ruleset = world(*rules)
    later = us(dt.datetime(2027, 1, 20, tzinfo=dt.UTC))
    assert ["2027-01"] == baseline_scope(ruleset, Memory(), later)["cycles"]
    memory, one = Memory(), np.array([0])
    number = weir.compiled.book.cycle_calendars[0].index(np.array([20_700], np.int32)).astype(np.int64)
    september = int(cycle_code(0, number)[0])
    memory.admit(ruleset.watches[0].row, "always", Occurrences(one, one + september, one + 1, one), held=True)
    assert ["2026-09", "2027-01"] == baseline_scope(ruleset, memory, later)["cycles"]
    memory.admit(ruleset.watches[1].row, "always", Occurrences(one, one + 20_780, one + 1, one), held=True)
    scope = baseline_scope(ruleset, memory, later)
    assert ["2026-09", "2026-11", "2026-12", "2027-01"] == scope["cycles"]
    assert dt.date(1970, 1, 1) + dt.timedelta(days=20_780) == scope["first_day"]
