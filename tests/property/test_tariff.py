"""Properties of prices: the book against a reference that is worked out by hand, in any split, order and size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rating.tariff import PriceBook, PriceSpec
from rating.units.money import MAX_NANOS, round_nanos
from schemas.plans import Price, Rounding, Tier
from tests.support.reference.price_reference import reference_cost
from tests.support.strategies.strategies import amounts, price_specs

UNITS = st.sampled_from([-1, 0, 1]) | st.integers(-1, 6000) | st.integers(-1, 10**6)


def rounded(spec: PriceSpec, value: Fraction) -> int:
    return round_nanos(value, spec.rounding.decimals, spec.rounding.mode)


def expected_charge(spec: PriceSpec, before: int, after: int) -> int:
    one, other = reference_cost(spec, before), reference_cost(spec, after)
    if spec.rounding.at == "cycle":
        return rounded(spec, other) - rounded(spec, one)
    return rounded(spec, other - one)


def charges(spec: PriceSpec, counter: list[int]) -> list[int]:
    """What each step of a counter costs, on its own."""
    book = PriceBook.compile([spec])
    before, after = np.array(counter[:-1], np.int64), np.array(counter[1:], np.int64)
    return book.charge(np.zeros(len(before), np.int32), before, after).tolist()


@given(st.data(), st.lists(price_specs(), min_size=1, max_size=5))
def test_book_agrees_with_the_reference(data: st.DataObject, specs: list[PriceSpec]) -> None:
    """Every charge of a mixed batch is the one that is worked out by hand, to the last nano, reversals included."""
    book = PriceBook.compile(specs)
    rows = data.draw(st.lists(st.tuples(st.integers(0, len(specs) - 1), UNITS, UNITS), min_size=1, max_size=30))
    rows = [(price, *(min(units, int(book.unit_limit[price])) for units in moved)) for price, *moved in rows]
    price, before, after = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    expected = [expected_charge(specs[price], before, after) for price, before, after in rows]
    assert expected == book.charge(price.astype(np.int32), before, after).tolist()
    nanos, part = book.cumulative(price, after)
    exact = [reference_cost(specs[price], after) for price, _, after in rows]
    assert exact == [
        Fraction(int(whole)) + Fraction(int(rest), int(book.denominator[price]))
        for whole, rest, (price, _, _) in zip(nanos, part, rows, strict=True)
    ]


@given(price_specs(), st.lists(st.integers(0, 400), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_charges_of_a_cycle_sum_to_the_rounded_total(spec: PriceSpec, quantities: list[int], random: object) -> None:
    """Rounded at the cycle, charges telescope to R(F(total)), however the total is split and in whatever order."""
    spec = PriceSpec(spec.price, Rounding(decimals=spec.rounding.decimals, mode=spec.rounding.mode, at="cycle"))
    total = sum(quantities)
    expected = rounded(spec, reference_cost(spec, total))
    for _ in range(2):
        counter = [-1, *np.cumsum(quantities).tolist()]
        assert expected == sum(charges(spec, counter))
        random.shuffle(quantities)  # type: ignore[attr-defined]
    assert expected == sum(charges(spec, [-1, total]))


@given(price_specs(), UNITS, UNITS)
def test_a_reversal_costs_just_the_opposite(spec: PriceSpec, one: int, other: int) -> None:
    """Going back from `after` to `before` gives back exactly what going there cost."""
    there, back = charges(spec, [one, other, one])
    assert there == -back


@given(price_specs(), st.lists(UNITS, min_size=2, max_size=20))
def test_more_usage_never_costs_less(spec: PriceSpec, counter: list[int]) -> None:
    """Every model but those by the reached tier is monotone: a record never costs less than nothing."""
    assume(spec.price.model not in ("volume", "capacity"))
    assert all(charge >= 0 for charge in charges(spec, sorted(counter)))


@given(amounts(10**6), st.sampled_from([1, 7, "1 KB", "1 MB", "1 GB"]), st.integers(0, 10**18), st.integers(0, 9))
@example("1000000", "1 GB", 10**12, 9)
@example("0.000000001", "1 GB", 10**18, 9)
@example("1", "1 MB", 10**15, 2)
def test_nothing_overflows(price: str, per: str | int, units: int, decimals: int) -> None:
    """Up to a price's limit of units its cost is exact, whatever the size; the limit is that of 64-bit money."""
    spec = PriceSpec(Price(model="flat", price=price, per=per), Rounding(decimals=decimals))
    assume(reference_cost(spec, 10**6) <= MAX_NANOS)
    book = PriceBook.compile([spec])
    limit = int(book.unit_limit[0])
    assert limit == 2**62 or reference_cost(spec, limit) <= MAX_NANOS < reference_cost(spec, limit + 1)
    for reached in (limit, min(limit, units)):
        assert [rounded(spec, reference_cost(spec, reached))] == charges(spec, [0, reached])
    beyond = limit + int(book.record_limit[0])
    if beyond < 2**63:
        due = rounded(spec, reference_cost(spec, beyond)) - rounded(spec, reference_cost(spec, limit))
        assert [due] == charges(spec, [limit, beyond])


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=4, unique=True), st.integers(1, 10**6))
def test_limit_of_tiers_is_the_first_unit_too_dear(ends: list[int], price: int) -> None:
    """Tiers that grow too dear are rated exactly up to the last unit that fits, and not beyond."""
    tiers = tuple(Tier(to=end, price=str(price // (number + 1))) for number, end in enumerate(sorted(ends)))
    spec = PriceSpec(Price(model="graduated", tiers=tiers, last_tier="extend"))
    assume(reference_cost(spec, 10**6) <= MAX_NANOS)
    book = PriceBook.compile([spec])
    limit = int(book.unit_limit[0])
    assert [rounded(spec, reference_cost(spec, limit))] == charges(spec, [-1, limit])
    assert limit == 2**62 or reference_cost(spec, limit + 1) > MAX_NANOS
