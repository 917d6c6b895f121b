"""Who a record belongs to, and which plan held on a day (F1, P1)."""

from __future__ import annotations

import datetime as dt
from random import Random

import numpy as np
import polars as pl
import pytest

from rating.catalogue.cards import term_ends, upsert_cards
from rating.catalogue.spells import BEGINNING, END, SPELL_SCHEMA, Spells, add_spells, no_spells
from rating.dedupe.digests import Prints
from rating.engine import Engine
from rating.state import State
from schemas.cards import Catalogue
from schemas.plans import Rate
from tests.support.fold_case import cards, engine, plan, usage

EPOCH = dt.date(1970, 1, 1)


def spells(*rows: tuple[int, int, int, str]) -> pl.DataFrame:
    """A history of (card, from, until, target)."""
    return pl.DataFrame(rows, schema=SPELL_SCHEMA, orient="row")


class TestAddSpells:
    def test_a_later_spell_ends_the_one_before(self) -> None:
        """What held goes on until the day before the new plan begins."""
        history = add_spells(spells((0, BEGINNING, END, "a")), spells((0, 100, END, "b")))
        assert [(0, BEGINNING, 99, "a"), (0, 100, END, "b")] == history.rows()

    def test_the_same_target_again_is_nothing_new(self) -> None:
        """A card that is already on the plan stays on it, from when it was."""
        history = spells((0, BEGINNING, 99, "a"), (0, 100, END, "b"))
        assert history.rows() == add_spells(history, spells((0, 100, END, "b"))).rows()
        assert history.rows() == add_spells(history, spells((0, 150, END, "b"))).rows()

    def test_the_same_target_with_another_end_moves_the_end_of_that_spell_alone(self) -> None:
        """A membership that is given an end later ends then; earlier ones keep theirs."""
        history = spells((0, 0, 50, "a"), (0, 100, END, "b"))
        assert [(0, 0, 50, "a"), (0, 100, 200, "b")] == add_spells(history, spells((0, 150, 200, "b"))).rows()

    def test_an_earlier_spell_of_the_same_target_replaces_what_came_after(self) -> None:
        """Told that the first plan holds for ever, the card forgets the second."""
        history = spells((0, BEGINNING, 99, "a"), (0, 100, END, "b"))
        assert [(0, BEGINNING, END, "a")] == add_spells(history, spells((0, 20, END, "a"))).rows()

    def test_a_spell_replaces_those_that_begin_with_it_or_later(self) -> None:
        """What was planned for later is given up."""
        history = spells((0, 0, 99, "a"), (0, 100, 199, "b"), (0, 200, END, "c"))
        assert [(0, 0, 49, "a"), (0, 50, END, "d")] == add_spells(history, spells((0, 50, END, "d"))).rows()

    def test_cards_keep_to_themselves(self) -> None:
        """A change of one card leaves the others alone; the history stays in order of cards."""
        history = spells((0, 0, END, "a"), (2, 0, END, "a"))
        found = add_spells(history, spells((2, 5, END, "b"), (1, 3, END, "c")))
        assert [(0, 0, END, "a"), (1, 3, END, "c"), (2, 0, 4, "a"), (2, 5, END, "b")] == found.rows()

    def test_nothing_added_is_nothing_changed(self) -> None:
        """An empty change, and a change of an empty history."""
        history = spells((0, 0, END, "a"))
        assert history.rows() == add_spells(history, no_spells()).rows()
        assert history.rows() == add_spells(no_spells(), history).rows()


def test_spells_at_a_day() -> None:
    """The target of each card on each day, -1 before, between and after, and for a card without any."""
    compiled = Spells(spells((0, 10, 19, "a"), (0, 30, END, "b"), (2, 0, 5, "a")), 3, {"a": 7, "b": 8})
    asked = [(0, 9), (0, 10), (0, 19), (0, 20), (0, 30), (0, 99), (1, 10), (2, 5), (2, 6)]
    card, day = (np.array(column) for column in zip(*asked, strict=True))
    assert [-1, 7, 7, -1, 8, 8, -1, 7, -1] == compiled.at(card, day).tolist()
    assert [-1] == Spells(no_spells(), 1, {}).at(np.array([0]), np.array([0])).tolist()


def test_records_are_found_by_iccid_then_imsi_then_msisdn() -> None:
    """The first number that a record carries decides."""
    weir = engine(plan(Rate(service="data")), card_rows=({"iccid": "1", "imsi": "91"}, {"iccid": "2", "msisdn": "82"}))
    step = weir.usage(
        usage(
            {"iccid": "1", "imsi": "x"}, {"imsi": "91"}, {"msisdn": "82"}, {"iccid": "x", "imsi": "91"}, {"imsi": None}
        )
    )
    assert ["1", "1", "2"] == step.rated["iccid"].to_pylist()
    assert [(4, "unknown_card"), (5, "unknown_card")] == step.rejects.select("source_row", "reason").rows()
    assert "ICCID x, which no card has" in step.rejects["message"][0]
    assert "no number" in step.rejects["message"][1]


def test_a_number_given_to_another_card_is_that_cards() -> None:
    """Of two cards with one IMSI the one that came later has it."""
    weir = engine(plan(Rate(service="data")), card_rows=({"iccid": "1", "imsi": "9"}, {"iccid": "2", "imsi": "9"}))
    assert ["2"] == weir.usage(usage({"imsi": "9"})).rated["iccid"].to_pylist()


def test_a_changed_card_keeps_its_place_and_loses_its_old_numbers() -> None:
    """An upsert replaces the whole row; cards that are not in it stay as they are, in order."""
    before = cards({"iccid": "1", "imsi": "91"}, {"iccid": "2", "imsi": "92"})
    after = upsert_cards(before, cards({"iccid": "3"}, {"iccid": "1", "imsi": "93"}))
    assert [("1", "93"), ("2", "92"), ("3", None)] == after.select("iccid", "imsi").rows()
    assert ["1"] == upsert_cards(cards(), cards({"iccid": "1"}))["iccid"].to_list()


def test_a_record_is_rated_by_the_plan_of_its_own_day() -> None:
    """A change of plan holds from its local day on, also for usage that arrives after it."""
    one, other = (plan(Rate(service="data"), name=name) for name in ("p", "o"))
    weir = engine(one, other)
    weir.apply(Catalogue(cards=cards({"iccid": "1", "plan": "o", "plan_from": dt.date(2026, 10, 10)})))
    rows = [{"used_at": dt.datetime(2026, 10, day, 23, 59, tzinfo=dt.UTC)} for day in (10, 9, 30)]
    assert ["o", "p", "o"] == weir.usage(usage(*rows)).rated["plan_id"].to_pylist()


def test_usage_before_the_first_plan_is_refused() -> None:
    """A card without a plan on that day cannot be rated."""
    weir = engine(plan(Rate(service="data")), card_rows=({"iccid": "1", "plan_from": dt.date(2026, 10, 6)},))
    step = weir.usage(usage({"used_at": dt.datetime(2026, 10, 5, 23, tzinfo=dt.UTC)}))
    assert ["no_plan"] == step.rejects["reason"].to_list()


@pytest.mark.parametrize(("months", "end"), [(None, dt.date(2022, 6, 30)), (1, dt.date(2021, 7, 31))])
def test_the_term_is_the_cards_or_the_plans(months: int | None, end: dt.date) -> None:
    """Twelve months from 2021-07-12 end with June 2022; a card's own term goes before that of its plan (T3)."""
    card = cards({"iccid": "1", "plan": "p", "activated_on": dt.date(2021, 7, 12), "term_months": months})
    assert [(end - dt.date(1970, 1, 1)).days] == term_ends(card, {"p": 12}).tolist()
    assert [END] == term_ends(card.with_columns(activated_on=pl.lit(None, pl.Date)), {"p": 12}).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_what_a_change_leaves_alone_is_as_if_compiled_anew(seed: int) -> None:
    """After drawn changes of cards the engine knows the same of each as one that is restored from its snapshot."""
    random = Random(seed)
    plans = [plan(Rate(service="data"), name=name) for name in ("p", "o")]
    weir = engine(*plans, card_rows=())
    some = [f"{number}" for number in range(40)]
    for _ in range(random.randrange(1, 9)):
        iccids = random.sample(some, random.randrange(1, random.choice((3, 30))))
        weir.apply(Catalogue(cards=cards(*(drawn(random, iccid) for iccid in iccids))))
        if random.random() < 0.7:  # numbers are indexed at their first use
            weir.usage(usage({"imsi": random.choice(some)}, {"iccid": random.choice(some)}))
    again = Engine(State.restore(*weir.snapshot(), weir.state.seen))
    one, other = weir.compiled, again.compiled
    card, day = np.arange(len(one.directory)).repeat(40), np.tile(np.arange(40), len(one.directory))
    for name in ("account", "term_ends", "test_from", "activated_on"):
        assert getattr(one.directory, name).tolist() == getattr(other.directory, name).tolist()
    for held, found in ((one.directory.plans, other.directory.plans), (one.directory.pools, other.directory.pools)):
        assert held.at(card, day).tolist() == found.at(card, day).tolist()
    assert one.pools.members(20).tolist() == other.pools.members(20).tolist()
    asked = pl.Series(["x", *some])
    assert one.directory.rows_of(asked).tolist() == other.directory.rows_of(asked).tolist()
    prints = Prints.of(usage(*({"imsi": number} for number in asked)))
    assert one.directory.resolve(prints).tolist() == other.directory.resolve(prints).tolist()


def drawn(random: Random, iccid: str) -> dict[str, object]:
    """A card; what it has of numbers, plan, pool, device and days is drawn."""
    facts: dict[str, object] = {
        "imsi": f"{random.randrange(40)}",
        "plan": random.choice("po"),
        "plan_from": random.choice((None, EPOCH + dt.timedelta(random.randrange(40)))),
        "device": random.choice((None, f"d{random.randrange(5)}")),
        "status": random.choice((None, "deactivated")),
        "activated_on": EPOCH + dt.timedelta(random.randrange(40)),
        "test_from": EPOCH,
        "term_months": random.choice((None, 3)),
    }
    return {"iccid": iccid} | {name: fact for name, fact in facts.items() if random.random() < 0.7 or name == "plan"}
