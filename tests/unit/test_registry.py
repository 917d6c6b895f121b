"""The registry says of the log of commands what the embedded driver would say, and cuts what holds by partition."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.journal.arrival import LAST_ARRIVAL_US
from pipeline.journal.entries import Apply, Commands, Entry, Rejects, Tick, Usage
from pipeline.journal.messages import Fence, messages_of, read_message
from pipeline.journal.router import Router
from pipeline.streaming.commands.catalogue_log import Registry
from rating.dedupe.seen import DAY_US
from rating.engine import Engine
from rating.errors import InputError, StorageError
from rating.rules.totals.cycle_and_day import BASELINE
from rating.state import State
from schemas.cards import Account, Addon, Catalogue, Pool
from schemas.commands import Activate, Command, Connected, Deactivate, Done, PlanChanged, Suspended
from schemas.plans import Rate, ZoneSet
from schemas.rules import Rule
from tests.support.fold_case import cards, plan, usage

# Of four partitions, that of account a is 1, of b 0, of b1 2.
PARTITIONS = 4
START_US = 1_790_000_000_000_000
TOPIC = "commands"

FLEET = Catalogue(
    accounts=(Account(id="a"), Account(id="b"), Account(id="b1")),
    plans=(plan(Rate(service="data")), plan(Rate(service="sms"), name="q")),
    rules=(Rule(id="r", trigger="data_usage_cycle", threshold=5),),
    cards=cards(
        {"iccid": "1", "imsi": "91", "plan": "p"},
        {"iccid": "2", "imsi": "92", "account": "b"},
        {"iccid": "3", "account": "b1"},
    ),
)
CATALOGUES = (
    FLEET,
    Catalogue(cards=cards({"iccid": "4", "imsi": "92", "account": "b1"})),
    Catalogue(cards=cards({"iccid": "1", "imsi": "99", "status": "suspended"})),
    Catalogue(cards=cards({"iccid": "1", "account": "b"}, {"iccid": "2", "account": "a"})),
    Catalogue(cards=cards({"iccid": "5", "device": "d"}, {"iccid": "6", "device": "d", "account": "b"})),
    Catalogue(plans=(plan(Rate(service="voice")),)),
    Catalogue(plans=(plan(Rate(service="data", zone="nowhere"), name="z"),)),
    Catalogue(accounts=(Account(id="c"),), rules=(Rule(id="r", trigger="data_usage_cycle", threshold=6),)),
    Catalogue(rules=(Rule(id="s", trigger="data_usage_cycle", threshold=7),)),
    Catalogue(rules=(Rule(id="bad", trigger="data_usage_cycle", threshold="5 ducks"),)),
    Catalogue(),
)
KEYS = st.sampled_from([None, None, "k1", "k2"])
COMMANDS = st.one_of(
    st.builds(Activate, rule=st.sampled_from(["r", "s", "bad", "none"]), key=KEYS),
    st.builds(Activate, rule=st.just("r"), key=KEYS),
    st.builds(Deactivate, rule=st.sampled_from(["r", "s"]), key=KEYS),
    st.builds(Suspended, iccid=st.sampled_from(["1", "2", "4", "404"]), key=KEYS),
    st.builds(PlanChanged, iccid=st.sampled_from(["1", "3"]), plan=st.sampled_from(["p", "z"]), key=KEYS),
    st.builds(Connected, iccid=st.sampled_from(["1", "5"]), key=KEYS),
    st.builds(Done, action_id=st.just("2.0.3.1.r"), key=KEYS),
)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A catalogue, then entries of all kinds, some of them long after the one before."""
    entries: list[Entry] = [Apply(FLEET, START_US)]
    at_us = START_US
    for _ in range(draw(st.integers(1, 12))):
        at_us += draw(st.sampled_from([0, 1, 1, DAY_US, 20 * DAY_US]))
        kind = draw(st.integers(0, 9))
        if kind == 0:
            entries.append(Tick(at_us))
        elif kind < 5:
            entries.append(Apply(draw(st.sampled_from(CATALOGUES)), at_us))
        else:
            entries.append(Commands(tuple(draw(st.lists(COMMANDS, min_size=1, max_size=3))), at_us))
    return entries


def content(entry: Entry | Rejects) -> bytes:
    """The one message of an entry."""
    (message,) = messages_of(entry)
    return message


def taken(*entries: Entry) -> Registry:
    """A registry that has taken these, none refused."""
    registry = Registry(PARTITIONS)
    for offset, entry in enumerate(entries):
        assert registry.take(offset, content(entry)) is None
    return registry


class Whole:
    """The engine over everything, asked as the embedded driver asks it, and the router beside it."""

    def __init__(self) -> None:
        self.engine = Engine(State())
        self.router = Router(PARTITIONS)

    def take(self, entry: Entry) -> str | None:
        """Fold an entry; why it is refused, if it is."""
        try:
            if isinstance(entry, Apply):
                self.engine.check(entry.catalogue)
                self.router.take(entry.catalogue)
            elif isinstance(entry, Commands):
                self.engine.check_commands(entry.commands)
                self._start(entry)
        except InputError as error:
            return str(error)
        fold(self.engine, entry)
        return None

    def _start(self, entry: Commands) -> None:
        """Raise what starting the rules would raise, after which the embedded driver has committed nothing."""
        state = State.restore(*self.engine.snapshot(), self.engine.state.seen)
        rules = tuple(one for one in entry.commands if isinstance(one, Activate) and one.key is None)
        active = self.engine.state.rules.active
        Engine(state).command([one for one in rules if one.rule not in active], entry.at_us)


def fold(engine: Engine, entry: Entry) -> None:
    """Let an engine take an entry that is no usage."""
    if isinstance(entry, Apply):
        engine.apply(entry.catalogue, entry.at_us)
    elif isinstance(entry, Commands):
        engine.command(entry.commands, entry.at_us)
    elif isinstance(entry, Tick):
        engine.tick(entry.now_us)


def parts(registry: Registry, offset: int, entry: Entry) -> list[list[bytes]]:
    """The messages of an entry that the registry has taken."""
    return registry.parts(entry, offset, offset, TOPIC)


@settings(max_examples=40)
@given(logs())
def test_verdicts_are_those_of_the_embedded_driver(log: list[Entry]) -> None:
    """Each entry is accepted or refused as by an engine over everything, in the same words, and the parts of what
    was accepted leave the partitions with the cards and active rules of that engine."""
    whole, registry = Whole(), Registry(PARTITIONS)
    engines = [Engine(State(), partition) for partition in range(PARTITIONS)]
    for offset, entry in enumerate(log):
        bad = isinstance(entry, Commands) and any(getattr(one, "rule", None) == "bad" for one in entry.commands)
        refused = registry.take(offset, content(entry))
        if bad and refused is not None:
            continue  # which of several reasons is said may differ
        assert whole.take(entry) == refused
        if refused is None:
            for engine, messages in zip(engines, parts(registry, offset, entry), strict=True):
                for message in messages:
                    read = read_message(message, "").entry()
                    assert not isinstance(read, Rejects)
                    fold(engine, read)
    assert len(log) == registry.next_offset
    assert [whole.engine.state.rules.active] * PARTITIONS == [engine.state.rules.active for engine in engines]
    every = pl.concat([engine.state.catalogue.cards for engine in engines]).sort("iccid")
    assert whole.engine.state.catalogue.cards.sort("iccid").equals(every, null_equal=True)


@settings(max_examples=40)
@given(logs())
def test_registries_say_the_same(log: list[Entry]) -> None:
    """One that is asked at once and one that has read further, asked from the newest on, give the same bytes."""
    one, other = Registry(PARTITIONS), Registry(PARTITIONS)
    accepted, first = [], {}
    for offset, entry in enumerate(log):
        refused = one.take(offset, content(entry))
        assert refused == other.take(offset, content(entry))
        if refused is None:
            accepted.append(offset)
            first[offset] = parts(one, offset, entry)
    for offset in [*reversed(accepted), *accepted]:
        assert first[offset] == parts(other, offset, log[offset])


def test_parts_have_fences() -> None:
    """Each part says from which offset of the log it is; rules go everywhere, a card's command to its partition."""
    entry = Commands((Activate(rule="r"), Suspended(iccid="2")), START_US)
    registry = taken(Apply(FLEET, START_US), entry)
    messages = [[read_message(one, "") for one in some] for some in parts(registry, 1, entry)]
    assert [[2], [1], [1], [1]] == [[one.count for one in some] for some in messages]
    assert {Fence(TOPIC, 0, 1)} == {one.fence for some in messages for one in some}


def test_a_repeat_is_left_out_everywhere() -> None:
    """A rule is not started by a command whose key a partition knows and others do not (F4)."""
    first = Commands((Suspended(iccid="2", key="k"),), START_US)
    again = Commands((Activate(rule="r", key="k"), Connected(iccid="1")), START_US)
    registry = taken(Apply(FLEET, START_US), first, again)
    counts = [[read_message(one, "").count for one in some] for some in parts(registry, 2, again)]
    assert [[], [1], [], []] == counts
    assert registry.take(3, content(Commands((Activate(rule="r"),), START_US))) is None


def test_routers_are_as_of_any_offset() -> None:
    """What routes by the catalogues up to an offset knows no later ones, in whatever order it is asked."""
    registry = Registry(PARTITIONS)
    for offset in range(12):
        refused = registry.take(offset, content(Apply(_one_more(offset), START_US)))
        assert (refused is not None) == (offset == 5)
    named = pl.Series([f"{number}" for number in range(12)])
    for offset in [11, 3, 0, 4, 7, 6, 5, 10, 2, 1, 8, 9, 100, -1]:
        known = registry.router_at(offset).knows(named).tolist()
        assert [number <= offset and number != 5 for number in range(12)] == known
    # A number belongs to the card that had it then: the last card with it, which is of another partition each time.
    rows = usage({"imsi": "9"}).rows
    assert [1, 0, 2, 1] == [int(registry.router_at(offset).of_usage(rows)[0]) for offset in (0, 1, 2, 3)]


def _one_more(number: int) -> Catalogue:
    """A catalogue with one card; the sixth is of an account that is not there."""
    account = "none" if number == 5 else ("a", "b", "b1")[number % 3]
    accounts = FLEET.accounts if number == 0 else ()
    return Catalogue(accounts=accounts, cards=cards({"iccid": f"{number}", "imsi": "9", "account": account}))


def test_where_a_card_is() -> None:
    """A card is in the partition of its account; an unknown one has a partition too, always the same."""
    registry = taken(Apply(FLEET, START_US))
    assert [1, 0, 2] == [registry.partition_of(iccid) for iccid in ("1", "2", "3")]
    assert registry.partition_of("404") == Registry(PARTITIONS).partition_of("404")


def test_a_catalogue_may_come_in_pieces() -> None:
    """Messages of a large catalogue are taken one after another and route as the whole does."""
    rows = [{"iccid": f"{n:019}", "imsi": f"9{n:014}", "account": "ab"[n % 2]} for n in range(2000)]
    change = Catalogue(accounts=FLEET.accounts, cards=cards(*rows))
    pieces = messages_of(Apply(change, START_US), None, 9000)
    registry, whole = Registry(PARTITIONS), Router(PARTITIONS)
    whole.take(change)
    assert len(pieces) > 4
    assert [None] * len(pieces) == [registry.take(offset, piece) for offset, piece in enumerate(pieces)]
    named = usage(*({"imsi": row["imsi"]} for row in rows)).rows
    assert whole.of_usage(named).tolist() == registry.router_at(len(pieces)).of_usage(named).tolist()


ADDON = Addon(
    id="x",
    iccid="1",
    service="data",
    amount="many",
    purchased_at=dt.datetime(2026, 10, 1, tzinfo=dt.UTC),
    expires_on=dt.date(2026, 10, 31),
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            Catalogue(cards=cards({"iccid": "7", "account": "x"}, {"iccid": "8", "account": "y"})),
            "account x.*\n.*account y",
        ),
        (Catalogue(cards=cards({"iccid": "7"}, {"iccid": "7"})), "each card once"),
        (Catalogue(addons=(ADDON,)), "found 'many'"),
        (Catalogue(pools=(Pool(id="s", account="nobody", kind="dynamic"),)), "'nobody'"),
        (Catalogue(accounts=(Account(id="c", time_zone="Mars/Base"),), zones=(ZoneSet(id="z", zones=()),)), "Mars"),
        (Catalogue(plans=(plan(Rate(service="data"), name="y", zones="none"),)), "'none'"),
        (CATALOGUES[3], "card 1 in account b.*\n.*card 2 in account a"),
    ],
    ids=["account", "twice", "amount", "pool", "time zone", "zones", "moved"],
)
def test_what_no_partition_could_take_is_refused(change: Catalogue, said: str) -> None:
    """A catalogue that would stop every partition is refused with all that is wrong, and changes nothing."""
    registry = taken(Apply(FLEET, START_US))
    refused = registry.take(1, content(Apply(change, START_US)))
    assert refused is not None
    _match(said, refused)
    assert 2 == registry.next_offset
    assert [False, False] == registry.router_at(1).knows(pl.Series(["7", "8"])).tolist()
    assert registry.take(2, content(Commands((Suspended(iccid="1"),), START_US))) is None
    assert registry.take(3, content(Apply(CATALOGUES[1], START_US))) is None


def _match(said: str, text: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        raise RuntimeError(text)


def test_a_rule_that_cannot_start_is_refused() -> None:
    """A rule whose threshold says nothing is refused when it starts; the key of the command is not spent."""
    registry = taken(Apply(FLEET, START_US), Apply(CATALOGUES[9], START_US))
    refused = registry.take(2, content(Commands((Activate(rule="bad", key="k"),), START_US)))
    assert refused is not None
    assert "5 ducks" in refused
    good: tuple[Command, ...] = (Activate(rule="r", key="k"),)
    assert registry.take(3, content(Commands(good, START_US))) is None
    changed = registry.take(4, content(Apply(CATALOGUES[7], START_US)))
    assert changed is not None
    assert "deactivate it first" in changed


def test_what_is_no_command_is_refused() -> None:
    """Foreign and damaged content, usage, and a catalogue without its time are refused; the log goes on."""
    registry = Registry(PARTITIONS)
    good = content(Tick(1))
    for offset, (bad, said) in enumerate(
        [
            (b"{}", "begins with"),
            (good[:-1] + b"\x07", "checksum"),
            (content(Usage(usage({}))), "found usage"),
            (content(Apply(FLEET)), "when the catalogue came"),
            (b"WMSG\x02" + bytes(100), "upgrade"),
            (
                content(Commands((Activate(rule="r"),), START_US, pl.DataFrame(schema=BASELINE))),
                "totals of the history",
            ),
            (content(Tick(-1)), "before 1970"),
            (content(Tick(LAST_ARRIVAL_US + 1)), "after 2148"),
            (content(Tick(START_US + 3 * 86_400_000_000)), "more than a day after"),
        ]
    ):
        refused = registry.take(offset, bad, START_US)
        assert refused is not None
        assert said in refused
    assert registry.take(9, good, START_US) is None


def test_a_log_that_cannot_be_folded_stops() -> None:
    """A gap hides what others know, so it is not passed over."""
    registry = taken(Tick(1))
    for offset in (0, 2):
        with pytest.raises(StorageError, match=r"expected 1: the log of commands must be whole"):
            registry.take(offset, content(Tick(1)))
