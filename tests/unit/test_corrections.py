"""Corrections: a rated record is reversed or replaced by key, as rows of their own (F6)."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from rating.engine import Engine
from rating.step import Step
from schemas.cards import Addon, Catalogue, Pool, PoolSize
from schemas.plans import Band, Price, Rate, Rounding, TestAllowance, Tier
from schemas.usage import Direction, RecordType, Service
from tests.support.fold_case import NOON, RECEIVED, Row, cards, engine, plan, rows_of, us, usage

FLAT = Price(model="flat", price="1")
EURO = 10**9
AMOUNTS = (
    "quantity_raw", "billable_quantity", "from_test", "from_allowance", "from_addon", "overage", "charge_nanos"
)  # fmt: skip


class History:
    """An engine, and all rows that it rated so far."""

    def __init__(self, weir: Engine) -> None:
        self.weir = weir
        self.rated: list[pa.Table] = []

    def use(self, *rows: Row, **batch: Any) -> list[Row]:
        """Fold usage; returns its rated rows."""
        step = self.weir.usage(usage(*rows, **batch))
        self.rated.append(step.rated)
        return rows_of(step.rated)

    def correct(self, kind: RecordType, key: str, name: str, **fields: Any) -> Step:
        """Fold one correction of `key` under the key `name`."""
        batch = {word: fields.pop(word) for word in ("feed", "received") if word in fields}
        row = {"record_key": name, "record_type": kind, "corrects_key": key, "quantity": 0} | fields
        step = self.weir.usage(usage(row, **batch), pa.concat_tables(self.rated))
        self.rated.append(step.rated)
        return step

    def reverse(self, key: str, name: str = "", **fields: Any) -> Row:
        """Fold one reversal; returns its first row, with the sums of the amounts of all rows that it caused."""
        rows = rows_of(self.correct(RecordType.REVERSE, key, name or f"back {key}", **fields).rated)
        return rows[0] | {name: sum(row[name] for row in rows) for name in AMOUNTS}


def flat(allowance: int = 0) -> History:
    """One card at 1 a unit past an allowance."""
    return History(engine(plan(Rate(service="data", allowance=allowance, price=FLAT))))


def test_a_reversal_is_the_opposite_of_its_row() -> None:
    """It names the record, carries its own arrival and place, and takes quantities and charge back."""
    history = flat(100)
    (row,) = history.use({"quantity": 130, "volume_up_bytes": 30, "volume_down_bytes": 100})
    later = RECEIVED + dt.timedelta(hours=1)
    back = history.reverse("k1", received=later)
    assert ("reversal", "k1", 0, later, 2) == tuple(
        back[name] for name in ("kind", "record_key", "part", "received_at", "journal_offset")
    )
    opposite = (
        "quantity_raw", "billable_quantity", "from_allowance", "overage", "charge_nanos", "volume_up_bytes",
        "volume_down_bytes",
    )  # fmt: skip
    assert {name: -row[name] for name in opposite} == {name: back[name] for name in opposite}
    same = (
        "account_id",
        "iccid",
        "subject",
        "service",
        "used_at",
        "cycle",
        "plan_id",
        "plan_version",
        "rate",
        "currency",
    )
    assert {name: row[name] for name in same} == {name: back[name] for name in same}
    assert (130, 0) == (back["counter_before"], back["counter_after"])


def test_usage_since_then_moves_into_the_allowance() -> None:
    """Taking back what filled the allowance refunds the overage of what came after it."""
    history = flat(100)
    history.use({"quantity": 100}, {"quantity": 60})
    back = history.reverse("k1")
    assert (-40, -60, -60 * EURO) == (back["from_allowance"], back["overage"], back["charge_nanos"])
    (more,) = history.use({"quantity": 50}, first_row=3)
    assert (40, 10) == (more["from_allowance"], more["overage"])


def test_a_graduated_price_comes_back_from_its_top() -> None:
    """Units come back at the price of the tier that the total stands in now, so the sum stays F(total)."""
    price = Price(model="graduated", tiers=(Tier(to=10, price="1"), Tier(price="0.1")))
    history = History(engine(plan(Rate(service="data", price=price))))
    history.use({"quantity": 10}, {"quantity": 10})
    assert -1 * EURO == history.reverse("k1")["charge_nanos"]
    assert -10 * EURO == history.reverse("k2")["charge_nanos"]


def test_an_entry_fee_stays_while_a_record_stands() -> None:
    """The flat fee of the first tier comes back with the last record of the counter, whichever that is."""
    price = Price(model="graduated", tiers=(Tier(price="1", flat="5"),))
    history = History(engine(plan(Rate(service="data", price=price))))
    assert [8 * EURO, 2 * EURO] == [row["charge_nanos"] for row in history.use({"quantity": 3}, {"quantity": 2})]
    assert -3 * EURO == history.reverse("k1")["charge_nanos"]
    assert -7 * EURO == history.reverse("k2")["charge_nanos"]
    assert 9 * EURO == history.use({"quantity": 4}, first_row=3)[0]["charge_nanos"]


def test_a_connect_fee_comes_back_with_its_record() -> None:
    """Each call gives back its own."""
    price = Price(model="flat", price="1", connect_fee="2")
    history = History(engine(plan(Rate(service="voice", allowance=10, price=price))))
    history.use(*({"service": Service.VOICE, "quantity": 10} for _ in range(3)))
    assert [-12 * EURO, -12 * EURO, -2 * EURO] == [history.reverse(key)["charge_nanos"] for key in ("k1", "k3", "k2")]


@pytest.mark.parametrize(
    ("price", "charges"),
    [
        # 5 of the 15, 4 and 30 units are overage; then none of the 4 and 24 of the 30; then 20 of the 30.
        (Price(model="flat", price="1", basis="record"), [39, 24, 20, 0]),
        # The peak is the overage of the largest record.
        (Price(model="capacity", tiers=(Tier(price="1"),)), [30, 24, 20, 0]),
    ],
)
def test_a_price_of_each_record_or_of_the_peak_is_that_of_what_stands(price: Price, charges: list[int]) -> None:
    """If charges do not run over the cycle, they are those of the records that are left, too."""
    history = History(engine(plan(Rate(service="data", allowance=10, price=price))))
    history.use({"quantity": 15}, {"quantity": 4}, {"quantity": 30})
    found = [held(history)["charge_nanos"] // EURO]
    for key in ("k1", "k2", "k3"):
        history.reverse(key)
        found.append(held(history)["charge_nanos"] // EURO)
    assert charges == found


def test_cost_rounded_by_the_record_comes_back_whole() -> None:
    """Nothing of a rounded charge is left behind."""
    rate = Rate(
        service="data", price=Price(model="flat", price="0.001"), rounding=Rounding(decimals=2, mode="up", at="record")
    )
    history = History(engine(plan(rate)))
    (row,) = history.use({"quantity": 1})
    assert (10_000_000, -10_000_000) == (row["charge_nanos"], history.reverse("k1")["charge_nanos"])


def test_test_units_and_addons_come_back_where_they_were_taken() -> None:
    """Each allowance can be used again by as much as was given back to it."""
    addon = Addon(
        id="x", iccid="1", service="data", amount=50, purchased_at=NOON - dt.timedelta(days=30),
        expires_on=dt.date(2026, 12, 1),
    )  # fmt: skip
    terms = plan(Rate(service="data", allowance=10, price=FLAT), test=TestAllowance(amount=20))
    card = {"iccid": "1", "test_from": dt.date(2026, 10, 1)}
    history = History(engine(terms, card_rows=(card,), addons=(addon,)))
    burned = ("from_test", "from_allowance", "from_addon", "overage")
    (row,) = history.use({"quantity": 100})
    assert [20, 10, 50, 20] == [row[name] for name in burned]
    back = history.reverse("k1")
    assert [-20, -10, -50, -20] == [back[name] for name in burned]
    (again,) = history.use({"quantity": 100, "record_key": "again"})
    assert [20, 10, 50, 20] == [again[name] for name in burned]


def test_a_pool_gets_back_what_its_member_used() -> None:
    """Pool, member and cap are as they were."""
    terms = plan(Rate(service="data", allowance=100, sim_cap=60, price=FLAT))
    pool = Pool(id="q", account="a", kind="dynamic")
    cards = ({"iccid": "1", "pool": "q"}, {"iccid": "2", "pool": "q"})
    history = History(engine(terms, card_rows=cards, pools=(pool,)))
    history.use({"quantity": 70})
    back = history.reverse("k1")
    assert (-60, -10, -10 * EURO) == tuple(back[name] for name in ("from_allowance", "overage", "charge_nanos"))
    (again,) = history.use({"quantity": 70, "record_key": "again"})
    assert (60, 10, 0) == (again["from_allowance"], again["overage"], again["counter_before"])


def pooled(pool: Pool, *rates: Rate) -> History:
    """Card 1 on a plan of the first rate, card 2 on one of the second, both in the pool `q`."""
    plans = [plan(rate, name=f"p{number}") for number, rate in enumerate(rates, 1)]
    members = tuple({"iccid": str(n), "plan": f"p{n}", "pool": "q"} for n in range(1, 1 + len(rates)))
    return History(engine(*plans, card_rows=members, pools=(pool,)))


def held(history: History) -> dict[str, int]:
    """What all counters together hold."""
    counters = history.weir.state.counters
    return {name: int(counters[name].sum()) for name in ("billable", "allowance", "overage", "charge_nanos")}


NOTHING = {"billable": 0, "allowance": 0, "overage": 0, "charge_nanos": 0}
OTHER = {"iccid": "2"}


@pytest.mark.parametrize("order", [("k1", "k2", "k3"), ("k3", "k1", "k2"), ("k2", "k1", "k3")])
def test_overage_of_another_allowance_stays_where_a_pool_prices_both(order: tuple[str, ...]) -> None:
    """Members that count apart share the price of the pool; what one gives back never refunds the other's overage."""
    own = Rate(service="data", price=FLAT)
    pool = Pool(id="q", account="a", kind="same_tier", joining="prorate", overage=(own,))
    history = pooled(pool, Rate(service="data", allowance=300), Rate(service="data", counter="other"))
    history.use({"quantity": 254}, {"quantity": 10}, OTHER | {"quantity": 254})
    back = [history.reverse(key) for key in order]
    assert {"k1": (-254, 0), "k2": (-10, 0), "k3": (0, -254)} == {
        row["record_key"]: (row["from_allowance"], row["overage"]) for row in back
    }
    assert NOTHING == held(history)


def test_usage_moves_into_its_own_allowance_where_a_pool_prices_several() -> None:
    """Under a price that others share, overage of the same counter takes the place that comes free, and no more."""
    pool = Pool(id="q", account="a", kind="dynamic", overage=(Rate(service="data", price=FLAT),))
    history = pooled(pool, Rate(service="data", counter="one", allowance=100), Rate(service="data", counter="two"))
    history.use({"quantity": 100}, {"quantity": 60}, OTHER | {"quantity": 500})
    back = history.reverse("k1")
    assert (-40, -60, -60 * EURO) == (back["from_allowance"], back["overage"], back["charge_nanos"])
    back = history.reverse("k2")
    assert (-60, 0, 0) == (back["from_allowance"], back["overage"], back["charge_nanos"])
    assert -500 * EURO == history.reverse("k3")["charge_nanos"]
    assert NOTHING == held(history)


def test_usage_of_any_member_moves_into_a_size_that_all_share() -> None:
    """In a pool of bought size and one price, overage takes the place that comes free, on whichever counter it is."""
    size = (PoolSize(service="data", amount=100),)
    pool = Pool(id="q", account="a", kind="static", size=size, overage=(Rate(service="data", price=FLAT),))
    history = pooled(pool, Rate(service="data"), Rate(service="data", counter="other"))
    history.use(OTHER | {"quantity": 100}, {"quantity": 100}, OTHER | {"quantity": 50})
    assert [(0, -100), (-50, -50), (-50, 0)] == [
        (back["from_allowance"], back["overage"]) for back in (history.reverse(key) for key in ("k1", "k2", "k3"))
    ]
    assert NOTHING == held(history)


def test_usage_moves_into_an_allowance_that_several_prices_of_a_pool_share() -> None:
    """If a pool prices up and down apart and a plan counts them as one, what comes after moves into what is free."""
    pool = Pool(
        id="q", account="a", kind="dynamic",
        overage=(Rate(service="data", price=FLAT), Rate(service="data", direction="up", price=FLAT)),
    )  # fmt: skip
    history = pooled(pool, Rate(service="data", allowance=100), Rate(service="data", counter="other"))
    history.use(
        {"quantity": 100, "direction": Direction.DOWN},
        {"quantity": 60, "direction": Direction.UP},
        OTHER | {"quantity": 500, "direction": Direction.DOWN},
    )
    assert [(-40, -60), (-60, 0), (0, -500)] == [
        (back["from_allowance"], back["overage"]) for back in (history.reverse(key) for key in ("k1", "k2", "k3"))
    ]
    assert NOTHING == held(history)


def test_overage_is_not_given_back_twice_where_an_allowance_grew() -> None:
    """A record that comes last by chance, its overage already given back for another, gives back allowance."""
    rate = Rate(service="data", allowance=100, price=FLAT)
    history = pooled(Pool(id="q", account="a", kind="dynamic"), rate)
    history.use({"quantity": 100}, {"quantity": 100})
    history.weir.apply(Catalogue(cards=cards({"iccid": "2", "plan": "p1", "pool": "q"})))
    history.use({"quantity": 100}, first_row=3)
    assert {"billable": 300, "allowance": 200, "overage": 100, "charge_nanos": 100 * EURO} == held(history)
    assert [(0, -100), (-100, 0), (-100, 0)] == [
        (back["from_allowance"], back["overage"]) for back in (history.reverse(key) for key in ("k1", "k2", "k3"))
    ]
    assert NOTHING == held(history)


def test_every_part_of_a_split_record_comes_back() -> None:
    """A call over a boundary of bands gives back each part at its own price."""
    day = Rate(service="voice", band="day", price=FLAT)
    night = Rate(service="voice", price=Price(model="flat", price="0.5"))
    history = History(engine(plan(day, night, bands=(Band(name="day", start="08:00", end="18:00"),))))
    call = {"service": Service.VOICE, "quantity": 600, "used_at": NOON.replace(hour=17, minute=55)}
    rows = history.use(call)
    back = rows_of(history.correct(RecordType.REVERSE, "k1", "back").rated)
    assert {row["part"]: -row["charge_nanos"] for row in rows} == {row["part"]: row["charge_nanos"] for row in back}


def test_rates_that_share_a_counter_are_told_apart_by_zone() -> None:
    """Units come back at the price of the zone they were used in."""
    from tests.unit.test_book import ZONES

    rates = [
        Rate(service="data", zone=zone, counter="all", price=Price(model="flat", price=price))
        for zone, price in (("home", "1"), ("near", "10"))
    ]
    history = History(engine(plan(*rates, zones="z"), zones=(ZONES,)))
    history.use({"country": "DE", "quantity": 5}, {"country": "FR", "quantity": 5})
    assert -50 * EURO == history.reverse("k2")["charge_nanos"]
    assert -5 * EURO == history.reverse("k1")["charge_nanos"]


def test_a_record_is_reversed_once() -> None:
    """A second reversal by another key finds nothing; the same one again is a duplicate; other content a conflict."""
    history = flat()
    history.use({"quantity": 5})
    history.reverse("k1", "r")
    again = history.correct(RecordType.REVERSE, "k1", "r")
    assert (1, 0, 1, 0) == (again.records, again.rated_records, again.duplicates, again.rated.num_rows)
    other = history.correct(RecordType.REVERSE, "k1", "r", quantity=1)
    assert ["conflict"] == other.rejects["reason"].to_list()
    second = history.correct(RecordType.REVERSE, "k1", "r2")
    assert [("unknown_key", "corrects_key")] == second.rejects.select("reason", "field").rows()


def test_a_key_of_another_feed_is_another_record() -> None:
    """Keys are unique within their feed, and so are corrections."""
    history = flat()
    history.use({"quantity": 5})
    step = history.correct(RecordType.REVERSE, "k1", "r", feed="other")
    assert ["unknown_key"] == step.rejects["reason"].to_list()


def test_a_replacement_takes_back_and_counts_anew() -> None:
    """The old rows come back and the new content is rated under the key of the replacement."""
    history = flat(100)
    history.use({"quantity": 130})
    step = history.correct(RecordType.REPLACE, "k1", "new", quantity=110)
    assert (1, 1) == (step.records, step.rated_records)
    assert [("reversal", "k1", -130, -30 * EURO), ("usage", "new", 110, 10 * EURO)] == [
        tuple(row[name] for name in ("kind", "record_key", "billable_quantity", "charge_nanos"))
        for row in rows_of(step.rated)
    ]
    assert -10 * EURO == history.reverse("new")["charge_nanos"]


def test_a_replacement_that_cannot_be_rated_changes_nothing() -> None:
    """The old record stands until something better has come."""
    history = flat()
    history.use({"quantity": 5})
    step = history.correct(RecordType.REPLACE, "k1", "new", service=Service.SMS)
    assert (["no_rate"], 0) == (step.rejects["reason"].to_list(), step.rated.num_rows)
    assert -5 * EURO == history.reverse("k1")["charge_nanos"]


def test_a_reversal_after_the_grace_period_is_late() -> None:
    """It is billed in the open cycle and names its own, which is rated again, ticked or not."""
    for tick in (False, True):
        history = flat(2)
        history.use({"quantity": 5}, {"quantity": 5})
        after = dt.datetime(2026, 12, 20, tzinfo=dt.UTC)
        if tick:
            history.weir.tick(us(after))
        back = history.reverse("k1", received=after)
        assert ("2026-12", "2026-10", True, -5 * EURO, 0) == tuple(
            back[name] for name in ("cycle", "adjusts_cycle", "late", "charge_nanos", "from_allowance")
        )


def test_a_correction_may_correct_what_the_one_before_it_brought() -> None:
    """A replacement and its own reversal in one batch are what they are in two: no batch knows where it was cut."""
    undo = {"record_key": "c", "record_type": RecordType.REVERSE, "corrects_key": "b", "quantity": 0}
    change = {"record_key": "b", "record_type": RecordType.REPLACE, "corrects_key": "k1", "quantity": 7}
    outcomes = []
    for batches in ([[change, undo]], [[change], [undo]]):
        history = flat()
        history.use({"quantity": 5})
        rows = []
        for batch in batches:
            step = history.weir.usage(usage(*batch), pa.concat_tables(history.rated))
            history.rated.append(step.rated)
            rows += rows_of(step.rated)
        names = ("kind", "record_key", "quantity_raw", "charge_nanos", "counter_after")
        outcomes.append([tuple(row[name] for name in names) for row in rows])
    assert [("reversal", -5), ("usage", 7), ("reversal", -7)] == [(row[0], row[2]) for row in outcomes[0]]
    assert outcomes[0] == outcomes[1]
