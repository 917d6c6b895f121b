"""What was last heard of each SIM: in any order and in any cut, and kept over snapshots."""

from __future__ import annotations

import datetime as dt
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from rating.engine import Engine
from rating.rules.detect.last_seen import NEVER, UNKNOWN, Sightings, Texts, needs
from schemas.plans import Rate
from schemas.rules import Filter, Rule
from schemas.usage import Service
from tests.support.fold_case import NOON, Row, cards, engine, plan, us
from tests.support.rule_scene import Scene, iccids

ALL = (
    Rule(id="imei", trigger="imei_changed"),
    Rule(id="any", trigger="location_changed"),
    Rule(id="during", trigger="location_changed", across="during"),
    Rule(id="across", trigger="location_changed", across="across"),
    Rule(id="started", trigger="data_session_started"),
    Rule(id="voice", trigger="no_voice_cycle"),
    Rule(id="connected", trigger="not_connected_cycle"),
    Rule(id="data", trigger="no_data_session_24h", owner="a", filters=(Filter(type="zone", values=("home",)),)),
    Rule(id="sms", trigger="no_sms_24h", filters=(Filter(type="rat", values=("4G",)),)),
)
CARDS: tuple[Row, ...] = ({"iccid": "1", "imei": "A"}, {"iccid": "2"}, {"iccid": "3"})


def scene(*rules: Rule) -> Scene:
    """Three SIMs, the first of which is catalogued in device A."""
    return Scene(engine(plan(Rate(service="data")), card_rows=CARDS), *(rules or ALL))


def hours(number: float) -> dt.datetime:
    """So many hours after noon."""
    return NOON + dt.timedelta(hours=number)


def test_only_what_rules_need_is_kept_up() -> None:
    """Without a rule nothing but the age of cards is kept; each trigger asks for its own columns."""
    assert ["known_us"] == sorted(scene(Rule(id="r", trigger="data_usage_cycle", threshold=1)).state.sightings.columns)
    silent = scene(Rule(id="r", trigger="no_sms_24h")).state.sightings
    assert ["known_us", "sms_us"] == sorted(silent.columns)
    assert {"imei", "seen_us"} == needs(scene(Rule(id="r", trigger="imei_changed")).set.watches)
    assert {"cell", "cell_session", "seen_us"} == needs(scene(Rule(id="r", trigger="location_changed")).set.watches)


def test_places_are_kept_for_rules_that_tick() -> None:
    """A filter on the zone looks at the record of a usage rule; a daily or timed one at what was last seen (L9)."""
    filters = (Filter(type="zone", values=("home",)),)
    usage = Rule(id="r", trigger="data_usage_cycle", threshold=1, owner="a", filters=filters)
    assert set() == needs(scene(usage).set.watches)
    daily = Rule(id="r", trigger="data_usage_cycle", threshold=1, owner="a", filters=filters, repetition="daily")
    assert {"zone", "seen_us"} == needs(scene(daily).set.watches)
    term = Rule(id="r", trigger="term_ends", threshold=3, filters=(Filter(type="rat", values=("4G",)),))
    assert {"rat", "seen_us"} == needs(scene(term).set.watches)


def test_times_are_those_of_use() -> None:
    """The latest use of each service counts, whatever came last."""
    one = scene()
    one.hear({"used_at": hours(2)}, {"used_at": hours(1)}, {"used_at": hours(3), "service": Service.SMS})
    sightings = one.state.sightings
    assert us(hours(2)) == sightings["data_us"][0]
    assert us(hours(3)) == sightings["sms_us"][0]
    assert NEVER == sightings["voice_us"][0]
    assert us(hours(3)) == sightings["seen_us"][0]
    assert NEVER == sightings["seen_us"][1]


def test_cards_are_known_since_they_came() -> None:
    """A card that comes later is known since the clock of that entry, and comes with its own device."""
    one = scene()
    one.apply(at=hours(5), cards=pl.concat([one.set.directory.cards[:0], _card("4", "D")]))
    sightings = one.state.sightings
    assert [us(NOON)] * 3 + [us(hours(5))] == sightings["known_us"].tolist()
    assert ["A", None, None, "D"] == sightings.texts["imei"].named(sightings["imei"]).to_list()


def _card(iccid: str, imei: str) -> pl.DataFrame:
    return cards({"iccid": iccid, "imei": imei, "plan": "p"})


def test_what_no_rule_needs_is_forgotten() -> None:
    """What happened while no rule looked is no change once one looks again."""
    rule = Rule(id="r", trigger="imei_changed")
    one = scene(rule)
    one.hear({"card": 1, "imei": "X"})
    one.activate()
    assert ["known_us"] == sorted(one.state.sightings.columns)
    one.activate(rule)
    assert [] == one.hear({"card": 1, "imei": "Y"})
    assert ["2"] == iccids(one.hear({"card": 1, "imei": "Z"}))


def test_a_zone_is_left() -> None:
    """A record in no zone says so; one without a network says nothing about it."""
    one = scene()
    one.hear({"rat": "4G"}, {"zone": None, "used_at": hours(1)})
    sightings = one.state.sightings
    assert UNKNOWN == sightings["zone"][0]
    assert ["4G"] == sightings.texts["rat"].named(sightings["rat"][:1]).to_list()


def test_texts_are_numbered_once() -> None:
    """Numbers follow first appearance, over any number of calls."""
    texts = Texts()
    assert [0, 1, UNKNOWN, 0] == texts.numbers(pl.Series(["b", "a", None, "b"])).tolist()
    assert [2, 1] == texts.numbers(pl.Series(["c", "a"])).tolist()
    assert ["a", None, "c"] == texts.named(np.array([1, UNKNOWN, 2])).to_list()
    assert [None] == Texts().named(np.array([UNKNOWN])).to_list()


RECORD = st.fixed_dictionaries(
    {
        "card": st.integers(0, 2),
        "used_at": st.builds(hours, st.sampled_from([*range(0, 60, 7), 24 * 27, 24 * 27 + 5, 24 * 60, -24 * 30])),
        "service": st.sampled_from([int(one) for one in Service]),
        "zone": st.sampled_from(["home", "far", None]),
        "imei": st.sampled_from(["A", "B", None]),
        "cell_id": st.sampled_from(["c", "d", "e", None]),
        "rat": st.sampled_from(["4G", "5G", None]),
        "session_id": st.sampled_from(["s", "t", None]),
        "started": st.integers(0, 1),
    }
)


def slowly(rows: list[Row]) -> tuple[list[tuple[Any, ...]], list[Row]]:
    """The changes (rule, SIM, offset, from, to) and what is known afterwards, one record at a time."""
    known: list[Row] = [{"imei": "A"}, {}, {}]
    changes: list[tuple[Any, ...]] = []
    for offset, row in enumerate(rows):
        one, iccid = known[row["card"]], str(row["card"] + 1)
        at = row["used_at"]
        latest = one.get("seen")
        if row["started"]:
            changes.append(("started", iccid, offset, None, None))
        if latest is None or at >= latest:
            if row["imei"] is not None:
                if one.get("imei") not in (None, row["imei"]):
                    changes.append(("imei", iccid, offset, one["imei"], row["imei"]))
                one["imei"] = row["imei"]
            if row["cell_id"] is not None:
                if one.get("cell") not in (None, row["cell_id"]):
                    same = row["session_id"] is not None and row["session_id"] == one["session"]
                    moved = (iccid, offset, one["cell"], row["cell_id"])
                    changes += [("any", *moved), ("during" if same else "across", *moved)]
                one["cell"], one["session"] = row["cell_id"], row["session_id"]
            if row["rat"] is not None:
                one["rat"] = row["rat"]
            one["zone"] = row["zone"]
        for name, service in (("seen", row["service"]), ("voice", Service.VOICE)):
            if row["service"] != service:
                continue
            last, quiet = one.get(name), one.get(f"{name}_quiet")
            if last is None or at - last >= dt.timedelta(days=27):
                one[f"{name}_quiet"] = (last, at)
            elif quiet is not None and at < quiet[1]:
                one[f"{name}_quiet"] = (at if quiet[0] is None else max(quiet[0], at), quiet[1])
            one[name] = at if last is None else max(last, at)
    return sorted(changes, key=lambda change: (change[2], change[0])), known


@cache
def fleet() -> Engine:
    """The SIMs of scenes that only listen; nothing in it changes."""
    return engine(plan(Rate(service="data")), card_rows=CARDS)


@given(rows=st.lists(RECORD, max_size=14), cuts=st.sets(st.integers(1, 13)))
def test_batches_can_be_cut_anywhere(rows: list[Row], cuts: set[int]) -> None:
    """However a journal is cut into batches, what fires and what is known agree with a record-by-record account."""
    one = Scene(fleet(), *ALL)
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for first, last in pairwise(edges):
        if last > first:
            one.hear(*rows[first:last])
    changes, known = slowly(rows)
    told = [(row["rule"], row["iccid"], row["offset"], row["from_value"], row["to_value"]) for row in one.fired]
    assert changes == told
    sightings = one.state.sightings
    for name in ("imei", "cell", "rat", "zone"):
        assert [row.get(name) for row in known] == sightings.texts[name].named(sightings[name]).to_list()
    for name in ("seen", "voice"):
        assert [_us(row.get(name)) for row in known] == sightings[f"{name}_us"].tolist()
        quiet = [row.get(f"{name}_quiet", (None, None)) for row in known]
        assert [_us(pair[0]) for pair in quiet] == sightings[f"{name}_quiet_us"].tolist()
        assert [_us(pair[1]) for pair in quiet] == sightings[f"{name}_again_us"].tolist()
    whole = Scene(fleet(), *ALL)
    if rows:
        whole.hear(*rows)
    for name, table in whole.state.sightings.to_tables().items():
        assert table.equals(sightings.to_tables()[name])


def _us(moment: dt.datetime | None) -> int:
    return NEVER if moment is None else us(moment)


@given(rows=st.lists(RECORD, min_size=2, max_size=10))
def test_a_snapshot_changes_nothing(rows: list[Row]) -> None:
    """Sightings read back go on as those that were written (and a zone or device keeps its number)."""
    one, other = Scene(fleet(), *ALL), Scene(fleet(), *ALL)
    half = len(rows) // 2
    for each in (one, other):
        each.hear(*rows[:half])
    other.state.sightings = Sightings.from_tables(other.state.sightings.to_tables())
    assert one.hear(*rows[half:]) == other.hear(*rows[half:])
    for name, table in one.state.sightings.to_tables().items():
        assert table.equals(other.state.sightings.to_tables()[name])
