"""A table of cases for every price model, most of them facts known from the tests of other rating engines."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from rating.tariff import PriceBook, PriceSpec
from rating.tariff.increments import IncrementBook, IncrementSpec
from rating.units.money import format_amount
from schemas.plans import Increment, IncrementStart, Price, Rounding, Tier


def costs(price: Price, counter: list[int], rounding: Rounding | None = None, service: str = "voice") -> list[str]:
    """What each step of a counter costs, as decimal text, connect fee included."""
    book = PriceBook.compile([PriceSpec(price, rounding or Rounding(), service)])
    before, after = np.array(counter[:-1], np.int64), np.array(counter[1:], np.int64)
    charged = book.charge(np.zeros(len(before), np.int32), before, after, np.ones(len(before), np.int64))
    return [format_amount(nanos) for nanos in charged.tolist()]


def alone(price: Price, *units: int) -> list[str]:
    """What each quantity costs when it is all there is."""
    return [costs(price, [-1, quantity])[0] for quantity in units]


def tiers(*rows: tuple[int | None, str, str]) -> tuple[Tier, ...]:
    """Tiers given as (to, price, flat)."""
    return tuple(Tier(to=to, price=price, flat=flat) for to, price, flat in rows)


class TestFlat:
    def test_half_per_second(self) -> None:
        """A price for each unit is paid for each unit."""
        assert alone(Price(model="flat", price="0.5"), 30, 3621) == ["15", "1810.5"]

    def test_price_per_several_units(self) -> None:
        """A price for ten units is paid in proportion, in fractions that no single unit has."""
        assert alone(Price(model="flat", price="0.002", per=10), 20) == ["0.004"]
        assert alone(Price(model="flat", price="1", per=100), 99) == ["0.99"]

    def test_rounding_up_a_record_with_its_connect_fee(self) -> None:
        """24 s at 0.05 a minute and a connect fee of 0.15 are 0.17, rounded up once."""
        price = Price(model="flat", price="0.05", per=60, connect_fee="0.15", basis="record")
        assert costs(price, [0, 24], Rounding(mode="up", decimals=2)) == ["0.17"]
        assert costs(price, [0, 24], Rounding(mode="up", decimals=2, at="record")) == ["0.17"]

    def test_maximum_then_free(self) -> None:
        """Past the maximum nothing more is charged."""
        price = Price(model="flat", price="1", maximum="10")
        assert alone(price, 1800) == ["10"]
        assert costs(price, [0, 4, 9, 12, 10**15]) == ["4", "5", "1", "0"]

    def test_minimum_is_due_at_the_first_record(self) -> None:
        """A minimum falls due as the price is entered, and usage counts against it."""
        assert costs(Price(model="flat", price="1", minimum="5"), [-1, 0, 3, 6]) == ["5", "0", "1"]

    def test_reversal_is_negative(self) -> None:
        """Ten units taken back are ten units paid back."""
        assert costs(Price(model="flat", price="1"), [10, 0]) == ["-10"]

    def test_free_units_and_time_order(self) -> None:
        """After 60 free seconds the order of records decides which costs what, but not what they cost together."""
        assert costs(Price(model="flat", price="0.6", per=60, free_units=60), [0, 120, 240]) == ["0.6", "1.2"]

    def test_a_price_finer_than_a_nano(self) -> None:
        """A price of less than a nano a unit adds up over the cycle instead of being lost record by record."""
        price = Price(model="flat", price="0.0000000000625")
        assert costs(price, list(range(17)), service="data").count("0.000000001") == 1
        assert costs(price, [0, 16 * 10**12], service="data") == ["1000"]

    def test_price_per_gigabyte(self) -> None:
        """A byte at 2.50 a GB is a fraction of a nano that is kept until the cycle is rounded."""
        assert costs(Price(model="flat", price="2.50", per="1 GB"), [0, 2**29, 2**30], service="data") == ["1.25"] * 2


class TestPackage:
    def test_package_of_ten(self) -> None:
        """A started package costs a whole one, whatever was used before it."""
        price = Price(model="package", price="15", per=10)
        assert alone(price, 0, 1, 10, 11) == ["0", "15", "15", "30"]
        assert costs(price, [17, 22]) == ["15"]

    def test_free_units(self) -> None:
        """Free units are left out before packages are counted."""
        assert alone(Price(model="package", price="100", per=10), 121) == ["1300"]
        assert alone(Price(model="package", price="100", per=10, free_units=10), 121) == ["1200"]

    def test_late_usage_bills_the_difference(self) -> None:
        """A total that grows from 1 to 401 adds the four packages that were not billed yet."""
        assert costs(Price(model="package", price="1", per=100), [0, 1, 401]) == ["1", "4"]

    def test_a_part_of_a_unit_starts_a_package(self) -> None:
        """9.9 of 10, counted in tenths, is one package, or 0.99 in proportion."""
        assert alone(Price(model="package", price="1", per=100), 99) == ["1"]

    def test_blocks_past_an_allowance(self) -> None:
        """415 s in started blocks of 30 s are 14 blocks; 7.5 MB in started MB are 8."""
        assert alone(Price(model="package", price="0.5", per=30), 415) == ["7"]
        assert alone(Price(model="package", price="1", per=1_000_000), 7_500_000) == ["8"]


class TestBlock:
    def test_connect_fee_and_blocks(self) -> None:
        """The connect fee is due with every record, a block as it is started."""
        price = Price(model="block", price="0.10", per=60, connect_fee="0.02")
        assert costs(price, [0, 30, 60, 61]) == ["0.12", "0.02", "0.12"]

    def test_connect_fee_stays_apart(self) -> None:
        """The fee is no part of the cumulative cost; who asks without connects gets blocks alone."""
        book = PriceBook.compile([PriceSpec(Price(model="block", price="1", per=60, connect_fee="0.01"), Rounding())])
        assert [10_000_000] == book.connect_fee_nanos.tolist()
        zero = np.zeros(1, np.int64)
        assert [10**9] == book.charge(zero, zero, zero + 60).tolist()
        assert [-(10**9) - 10_000_000] == book.charge(zero, zero + 60, zero, zero - 1).tolist()

    def test_connect_fee_alone(self) -> None:
        """Usage that costs nothing still pays the connect fee."""
        assert costs(Price(model="flat", connect_fee="0.01"), [40, 40]) == ["0.01"]

    def test_evening_band(self) -> None:
        """Half an hour at 1 and half at 0.5 a second with a fee of 1 are 2701, and 2700 where the call goes on."""
        day = Price(model="flat", price="1", connect_fee="1", basis="record")
        book = PriceBook.compile([PriceSpec(p, Rounding(), "voice") for p in (day, Price(model="flat", price="0.5"))])
        price, before, after = np.array([0, 1]), np.zeros(2, np.int64), np.full(2, 1800)
        assert 2701 * 10**9 == book.charge(price, before, after, np.array([1, 0])).sum()
        assert 2700 * 10**9 == book.charge(price, before, after).sum()


class TestOnce:
    def test_first_unit_only(self) -> None:
        """The first unit costs the price; a record of no units does not, and no later one does."""
        assert costs(Price(model="once", price="3.50"), [-1, 0, 1, 1000]) == ["0", "3.5", "0"]


class TestFree:
    def test_costs_nothing(self) -> None:
        """Free is free, however much is used, unless a minimum is agreed."""
        assert alone(Price(model="free"), 0, 10**18) == ["0", "0"]
        assert costs(Price(model="free", minimum="2"), [-1, 0, 10**18]) == ["2", "0"]


class TestGraduated:
    def test_flat_fees_and_unit_prices(self) -> None:
        """Flat fees are due as tiers are entered; 5.001 units, counted in thousandths, enter the second."""
        scaled = tuple(
            Tier(to=to, price=price, flat=flat, per=1000)
            for to, price, flat in [(5000, "0", "100"), (10000, "0", "50"), (15000, "10", "0"), (None, "5", "0")]
        )
        assert alone(Price(model="graduated", tiers=scaled), 0, 3000, 5000, 5001, 12000, 22000) == [
            *("100", "100", "100", "150", "170", "235")
        ]

    def test_entry_fees(self) -> None:
        """Each entered tier adds its own fee to its own units."""
        price = Price(model="graduated", tiers=tiers((10, "10", "2"), (20, "5", "3"), (None, "5", "3")))
        assert alone(price, 0, 10, 11, 21) == ["2", "102", "110", "163"]

    def test_stop_past_the_last_tier(self) -> None:
        """Nothing is charged past a last tier that ends, unless it says that it extends."""
        ended = tiers((1, "0.5", "0"), (4, "0.5", "0"), (9, "1.2", "0"))
        assert alone(Price(model="graduated", tiers=ended), 10) == ["8"]
        assert alone(Price(model="graduated", tiers=ended, last_tier="extend"), 10) == ["9.2"]

    def test_two_steps_of_overage(self) -> None:
        """225 units past the allowances: 20 at 0.2 and 205 at 0.5."""
        assert alone(Price(model="graduated", tiers=tiers((20, "0.2", "0"), (None, "0.5", "0"))), 225) == ["106.5"]

    def test_converted_units(self) -> None:
        """8 billable units, 5 at 1 and 3 at 0.5."""
        assert alone(Price(model="graduated", tiers=tiers((5, "1", "0"), (None, "0.5", "0"))), 8) == ["6.5"]

    def test_all_tiers(self) -> None:
        """10 at 1.5, 100 at 1 and 1 at 0.5."""
        sizes = tiers((10, "1.5", "0"), (110, "1", "0"), (1110, "0.5", "0"))
        assert alone(Price(model="graduated", tiers=sizes), 111) == ["115.5"]

    def test_packages_within_a_tier(self) -> None:
        """Packages count from the start of their tier, the last of them cut short by its end."""
        packaged = (Tier(to=25, price="1", per=10, package=True), Tier(price="2", per=10, package=True))
        assert alone(Price(model="graduated", tiers=packaged), 1, 21, 25, 26, 35, 36) == ["1", "3", "3", "5", "5", "7"]

    def test_flat_fee_of_the_first_tier_is_due_once(self) -> None:
        """A record of no units enters the first tier; the next one does not enter it again."""
        price = Price(model="graduated", tiers=tiers((None, "1", "7")))
        assert costs(price, [-1, 0, 2, 2, -1]) == ["7", "2", "0", "-9"]


class TestVolume:
    def test_top_tier(self) -> None:
        """All 111 units at the price of the tier that they reach."""
        sizes = tiers((10, "1.5", "0"), (110, "1", "0"), (1110, "0.5", "0"))
        assert alone(Price(model="volume", tiers=sizes), 111) == ["55.5"]

    def test_a_cheaper_tier_gives_back(self) -> None:
        """As a cheaper tier is reached, what was paid too much for earlier units comes back."""
        price = Price(model="volume", tiers=tiers((10, "1", "0"), (None, "0.5", "0")))
        assert costs(price, [0, 10, 11]) == ["10", "-4.5"]

    def test_flat_of_the_reached_tier_alone(self) -> None:
        """The flat fee is that of the reached tier, not of every tier on the way."""
        price = Price(model="volume", tiers=tiers((10, "0", "5"), (None, "0", "8")))
        assert costs(price, [-1, 0, 10, 11]) == ["5", "0", "3"]

    def test_past_the_last_tier(self) -> None:
        """Past a last tier that ends the cost stays; where it extends it goes on."""
        ended = tiers((10, "1", "0"))
        assert alone(Price(model="volume", tiers=ended), 10, 12) == ["10", "10"]
        assert alone(Price(model="volume", tiers=ended, last_tier="extend"), 12) == ["12"]

    def test_bounds_where_cost_falls(self) -> None:
        """Minimum and maximum hold on both sides of a drop in cost."""
        price = Price(model="volume", tiers=tiers((10, "1", "0"), (None, "0.5", "0")), minimum="3", maximum="8")
        assert alone(price, 0, 2, 4, 9, 10, 11, 14, 100) == ["3", "3", "4", "8", "8", "5.5", "7", "8"]


class TestCapacity:
    def test_by_peak(self) -> None:
        """The fee of the tier that the peak reaches replaces that of the tier before."""
        price = Price(model="capacity", tiers=tiers((10, "0", "20"), (100, "0", "50"), (None, "0.25", "50")))
        assert costs(price, [-1, 4, 10, 11, 100, 104]) == ["20", "0", "30", "0", "26"]


class TestIncrementsAndPrices:
    def test_thirty_six(self) -> None:
        """30/6 at 0.006 a minute: 32, 57 and 75 s are billed as 36, 60 and 78 s."""
        increment = Increment(step=30, starts=(IncrementStart(start=30, step=6),))
        book = IncrementBook.compile([IncrementSpec(increment, "voice")])
        billable = book.billable(np.zeros(3, np.int32), np.array([32, 57, 75])).tolist()
        assert [36, 60, 78] == billable
        assert alone(Price(model="flat", price="0.006", per=60), *billable) == ["0.0036", "0.006", "0.0078"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("half_even", ["0.02", "0.04"]),
        ("half_up", ["0.03", "0.04"]),
        ("up", ["0.03", "0.04"]),
        ("down", ["0.02", "0.03"]),
    ],
)
def test_modes_of_rounding(mode: str, expected: list[str]) -> None:
    """2.5 and 3.5 hundredths in each mode, and the same below zero."""
    rounding = Rounding(decimals=2, mode=mode, at="record")  # type: ignore[arg-type]
    price = Price(model="flat", price="0.005")
    assert expected == [costs(price, [0, units], rounding)[0] for units in (5, 7)]
    assert [f"-{cost}" for cost in expected] == [costs(price, [units, 0], rounding)[0] for units in (5, 7)]


def test_rounding_at_the_cycle_loses_nothing() -> None:
    """Three records of a third of a cent are a cent together at the cycle, and nothing at the record."""
    price = Price(model="flat", price="0.01", per=3)
    assert costs(price, [0, 1, 2, 3], Rounding(decimals=2)) == ["0", "0.01", "0"]
    assert costs(price, [0, 1, 2, 3], Rounding(decimals=2, at="record")) == ["0", "0", "0"]
    book = PriceBook.compile([PriceSpec(price, Rounding(decimals=2))])
    nanos, part = book.cumulative(np.array([0]), np.array([2]))
    assert Fraction(20_000_000, 3) == Fraction(int(nanos[0])) + Fraction(int(part[0]), int(book.denominator[0]))
