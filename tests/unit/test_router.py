"""Which partition an entry of the journal belongs to, and what would be in two of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import polars as pl
import pytest

from pipeline.journal.entries import Apply, Commands, Entry, Tick, Usage
from pipeline.journal.router import Router
from rating.engine import Engine
from rating.errors import CatalogueError, ConfigError
from rating.rules.totals.cycle_and_day import BASELINE
from rating.state import State
from schemas.cards import Account, Addon, Catalogue, Pool
from schemas.commands import Activate, Command, Connected, Done, Failed, Suspended
from schemas.plans import Plan, Rate
from schemas.rules import Rule
from schemas.usage import RecordType
from tests.support.fold_case import Row, cards, plan, usage

# Of four partitions, that of account a is 1, of b 0, of b1 2; of two, a lives in 1, the others in 0.
A, B, B1 = 1, 0, 2
NOW_US = 1_790_000_000_000_000
FLEET: tuple[Row, ...] = (
    {"iccid": "1", "imsi": "91", "msisdn": "81", "account": "a"},
    {"iccid": "2", "imsi": "92", "account": "b"},
    {"iccid": "3", "imsi": "93", "account": "b1"},
    {"iccid": "4", "imsi": "94", "msisdn": "84", "account": "b"},
)


def router(*rows: Row, partitions: int = 4) -> Router:
    """A router that knows these cards, or the fleet."""
    started = Router(partitions)
    started.take(Catalogue(cards=cards(*(rows or FLEET))))
    return started


def addon(name: str, iccid: str) -> Addon:
    """An add-on of a card."""
    bought = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)
    return Addon(id=name, iccid=iccid, service="data", amount=5, purchased_at=bought, expires_on=dt.date(2026, 10, 31))


def rows_of(parts: list[Entry | None]) -> list[list[int]]:
    """The source rows of each partition's usage."""
    return [part.batch.rows["source_row"].to_list() if isinstance(part, Usage) else [] for part in parts]


def test_partitions_of_accounts_never_change() -> None:
    """The partition of an account is the same for ever: a journal that is there depends on it."""
    names = pl.Series(["a", "b", "b1", "acme", "globex", "ü"])
    assert [1, 0, 2, 1, 3, 3] == Router(4).of_accounts(names).tolist()
    assert [0] * 6 == Router(1).of_accounts(names).tolist()


def test_accounts_spread_evenly() -> None:
    """Many accounts fill all partitions about alike."""
    found = Router(8).of_accounts(pl.Series([f"account-{number}" for number in range(8000)]))
    counts = pl.Series(found).value_counts()["count"]
    assert 8 == len(counts)
    assert 850 < counts.min() <= counts.max() < 1150  # type: ignore[operator]


@pytest.mark.parametrize("partitions", [0, -1, 40_000])
def test_a_wrong_number_of_partitions_is_refused(partitions: int) -> None:
    """There is one partition at least, and not more than a broker bears."""
    with pytest.raises(ConfigError, match=f"found {partitions}; expected 1 to"):
        Router(partitions)


def test_a_record_follows_its_card() -> None:
    """ICCID, else IMSI, else MSISDN finds the card; records of a partition keep their order."""
    batch = usage(
        {"iccid": "2"},
        {"imsi": "91"},
        {"msisdn": "84"},
        {"iccid": "3", "imsi": "91"},
        {"iccid": "1"},
        {"imsi": "92", "msisdn": "81"},
    )
    assert [[1, 3, 6], [2, 5], [4], []] == rows_of(router().split(Usage(batch)))


def test_usage_of_one_partition_is_not_copied() -> None:
    """A batch of only one partition goes there unchanged. An empty batch goes nowhere."""
    entry = Usage(usage({"iccid": "2"}, {"iccid": "4"}))
    parts = router().split(entry)
    assert entry is parts[B]
    assert [B] == [place for place, part in enumerate(parts) if part is not None]
    assert [None] * 4 == router().split(Usage(replace(entry.batch, rows=entry.batch.rows[:0])))


def test_an_unknown_card_is_rejected_in_one_partition_once() -> None:
    """A number without a card has one partition, the same before and after others come, and ends as unknown_card."""
    batch = usage({"iccid": "404"}, {"imsi": "405"}, {"iccid": "1"}, {"iccid": "404"}, {"iccid": "404", "imsi": "91"})
    routed = router()
    first = rows_of(routed.split(Usage(batch)))
    routed.take(Catalogue(cards=cards({"iccid": "5", "account": "b1"})))
    assert first == rows_of(routed.split(Usage(batch)))
    assert all({1, 4, 5} <= set(rows) or not {1, 4, 5} & set(rows) for rows in first)
    reasons = []
    for part in routed.split(Usage(batch)):
        engine = Engine(State())
        engine.apply(Catalogue(accounts=(Account(id="a"),), plans=(plan(Rate(service="data")),)))
        if isinstance(part, Usage):
            reasons += engine.usage(part.batch).rejects["reason"].to_list()
    assert ["unknown_card"] * 5 == reasons


def test_a_number_belongs_to_the_later_of_two_cards() -> None:
    """Of cards with one IMSI that has it which first appeared later, as in the fold; a change does not reorder them."""
    routed = router({"iccid": "1", "imsi": "9", "account": "a"}, {"iccid": "2", "imsi": "9", "account": "b"})
    assert [B] == routed.of_usage(usage({"imsi": "9"}).rows).tolist()
    routed.take(Catalogue(cards=cards({"iccid": "1", "imsi": "9", "account": "a"})))
    assert [B] == routed.of_usage(usage({"imsi": "9"}).rows).tolist()
    routed.take(Catalogue(cards=cards({"iccid": "2", "imsi": None, "account": "b"})))
    assert [A] == routed.of_usage(usage({"imsi": "9"}).rows).tolist()
    assert 2 == len(routed)


def test_a_catalogue_is_cut_by_account() -> None:
    """Accounts, plans, zones and rules go everywhere; pools, cards and add-ons to their account alone."""
    change = Catalogue(
        accounts=(Account(id="a"), Account(id="b"), Account(id="b1", parent="b")),
        plans=(Plan(id="p", currency="EUR", versions=()),),
        pools=(Pool(id="q", account="b", kind="dynamic"), Pool(id="r", account="b1", kind="dynamic")),
        addons=(addon("x", "3"), addon("y", "2"), addon("z", "3")),
        rules=(Rule(id="r", trigger="data_usage_cycle"),),
        cards=cards(*FLEET),
    )
    parts = [part.catalogue for part in Router(4).split(Apply(change, NOW_US)) if isinstance(part, Apply)]
    assert 4 == len(parts)
    for part in parts:
        assert (change.accounts, change.plans, change.rules) == (part.accounts, part.plans, part.rules)
    assert [["2", "4"], ["1"], ["3"], []] == [part.cards["iccid"].to_list() for part in parts]
    assert [["q"], [], ["r"], []] == [[pool.id for pool in part.pools] for part in parts]
    assert [["y"], [], ["x", "z"], []] == [[one.id for one in part.addons] for part in parts]


def test_a_catalogue_says_when_it_came() -> None:
    """Without a time each partition would take its own."""
    with pytest.raises(ValueError, match="must say when it came"):
        Router(2).split(Apply(Catalogue()))


def test_a_card_stays_in_its_partition() -> None:
    """A move to an account of another partition is refused with advice and changes nothing; within one it is not."""
    routed = router(partitions=2)
    move = Catalogue(cards=cards({"iccid": "9", "account": "a"}, {"iccid": "1", "account": "b"}))
    expected = r"cards\.account: found card 1 in account b, which lives in another partition.*deactivate this card"
    with pytest.raises(CatalogueError, match=expected):
        routed.split(Apply(move, NOW_US))
    assert 4 == len(routed)
    assert [1] == routed.of_usage(usage({"iccid": "1"}).rows).tolist()
    routed.take(Catalogue(cards=cards({"iccid": "3", "account": "b"})))  # b1 and b: 0 of two


def test_a_move_of_many_cards_is_told_in_few_words() -> None:
    """The first cards are named, and how many more there are."""
    numbers = [str(number) for number in range(50)]
    routed = router(*({"iccid": number, "account": "a"} for number in numbers))
    with pytest.raises(CatalogueError) as refused:
        routed.take(Catalogue(cards=cards(*({"iccid": number, "account": "b"} for number in numbers))))
    assert 21 == len(refused.value.findings)
    assert "30 more such cards" in str(refused.value.findings[-1])


def test_an_addon_stays_with_its_partition() -> None:
    """An id that is in force for a card of one partition is refused for a card of another."""
    routed = router()
    routed.take(Catalogue(addons=(addon("x", "2"),)))
    routed.take(Catalogue(addons=(addon("x", "4"),)))
    with pytest.raises(CatalogueError, match=r"add-on x for card 1, .* give the add-on of another card another id"):
        routed.take(Catalogue(addons=(addon("x", "1"),)))


def test_a_device_is_in_one_partition() -> None:
    """SIMs of one device share what its plan includes, so they cannot be of accounts in several partitions."""
    routed = router({"iccid": "1", "account": "a", "device": "d"}, {"iccid": "2", "account": "b", "device": "e"})
    routed.take(Catalogue(cards=cards({"iccid": "5", "account": "a", "device": "d"})))
    with pytest.raises(CatalogueError, match=r"cards\.device: found device d with cards of several .* 1, 2; expected"):
        routed.take(Catalogue(cards=cards({"iccid": "2", "account": "b", "device": "d"})))


def test_commands_follow_their_card_and_rules_go_everywhere() -> None:
    """A command goes to its card's partition, else to the one its action's id names; the order stays."""
    commands: tuple[Command, ...] = (
        Suspended(iccid="1"),
        Activate(rule="r"),
        Done(action_id="3.17.1.1.r"),
        Connected(iccid="2"),
        Failed(action_id="3.9.1.1.r", iccid="1"),
        Done(action_id="99.1.1.1.r"),
        Suspended(iccid="404"),
    )
    baseline = pl.DataFrame({"iccid": ["1", "2", "1"], "units": [5, 6, 7]}, schema_overrides=BASELINE_TYPES)
    parts = router().split(Commands(commands, 7, baseline))
    found = [part.commands if isinstance(part, Commands) else () for part in parts]
    assert {7} == {part.at_us for part in parts if isinstance(part, Commands)}
    assert (commands[0], commands[1], commands[4]) == tuple(one for one in found[A] if one in commands[:5])
    assert (commands[1], commands[3]) == tuple(one for one in found[B] if one in commands[:5])
    assert (commands[1], commands[2]) == tuple(one for one in found[3] if one in commands[:5])
    assert [1, 1] == [sum(one in part for part in found) for one in commands[5:]]
    held = [part.baseline for part in parts if isinstance(part, Commands) and part.baseline is not None]
    assert [[6], [5, 7], [], []] == [one["units"].to_list() for one in held]
    assert [None, None] == router().split(Commands((Suspended(iccid="1"),), 7))[2:]


BASELINE_TYPES = {name: BASELINE[name] for name in ("iccid", "units")}


def test_a_tick_goes_everywhere() -> None:
    """Rules that wait for time wait in every partition."""
    assert [Tick(5)] * 3 == Router(3).split(Tick(5))


def test_a_correction_goes_where_the_record_was_rated() -> None:
    """What undoes a record comes to the partition of its rated row, with the rows of its own corrections alone."""
    engine = Engine(State(), partition=B1)
    priced = plan(Rate(service="data"))
    engine.apply(Catalogue(accounts=(Account(id="b1"),), plans=(priced,), cards=cards(FLEET[2] | {"plan": priced.id})))
    rated = engine.usage(usage({"iccid": "3", "record_key": "k", "quantity": 5})).rated
    reverse = {"record_type": RecordType.REVERSE, "quantity": 0}
    batch = usage(
        reverse | {"iccid": "1", "record_key": "x", "corrects_key": "k"},
        reverse | {"iccid": "2", "record_key": "y", "corrects_key": "gone"},
    )
    parts = router().split(Usage(batch, rated))
    assert [[2], [], [1], []] == rows_of(parts)
    held = [part.originals.num_rows for part in parts if isinstance(part, Usage) and part.originals is not None]
    assert [0, 1] == held


def test_a_copy_goes_its_own_way() -> None:
    """What a copy takes, new cards and changed ones, the router it came from does not know, and the other way."""
    first = router()
    second = first.copy()
    fresh = second.take(Catalogue(cards=cards({"iccid": "1", "imsi": "95"}, {"iccid": "5", "imsi": "96"}, FLEET[1])))
    assert ["1", "5"] == fresh["iccid"].to_list()
    first.take(Catalogue(cards=cards({"iccid": "1", "imsi": "97"})))
    named = usage({"imsi": "95"}, {"imsi": "96"}, {"imsi": "97"}, {"imsi": "91"}).rows["imsi"]
    known = [[bool((one._rows_of("imsi", named[n : n + 1]) >= 0).all()) for n in range(4)] for one in (first, second)]
    assert [[False, False, True, False], [True, True, False, False]] == known
    fifth = pl.Series(["5"])
    assert (True, False) == (bool(second.knows(fifth)[0]), bool(first.knows(fifth)[0]))
