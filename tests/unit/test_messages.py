"""An entry of the journal is the same after the way over a topic, in pieces where it is large; damage is found."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from itertools import accumulate, pairwise

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.journal.entries import Apply, Commands, Entry, Rejects, Tick, Usage
from pipeline.journal.messages import Fence, Fences, Message, messages_of, read_message
from rating.errors import StorageError, WorldError
from schemas.cards import Account, Addon, Catalogue, Pool
from schemas.commands import Activate, Command, Connected, PlanChanged
from schemas.plans import Plan, PlanVersion, Rate, Zone, ZoneSet
from schemas.rules import Rule
from schemas.tables import REJECTED
from tests.support.fold_case import SINCE, cards
from tests.support.rated_rows import Event, rated_table
from tests.unit.test_journal import assert_same, batch

WHERE = "journal[3]@17"
FENCE = Fence("usage.raw", 5, 1 << 40)
COMMANDS: tuple[Command, ...] = (
    Activate(rule="cap", at=dt.datetime(2026, 10, 7, 12, 0, 0, 5, tzinfo=dt.UTC), key="k-1"),
    PlanChanged(iccid="8988303000000000001", plan="b", from_=dt.date(2026, 11, 1)),
    Connected(iccid="8988303000000000001", imei="490154203237518"),
)
BASELINE = pl.DataFrame({"slice": ["data", "data/DE"], "units": [7, None]}, schema_overrides={"units": pl.Int64})


def catalogue(count: int = 3) -> Catalogue:
    """Something of every section, and so many cards."""
    return Catalogue(
        accounts=(Account(id="a"), Account(id="b", parent="a")),
        zones=(ZoneSet(id="z", zones=(Zone(name="home", countries=("DE",), home=True),)),),
        plans=tuple(
            Plan(
                id=name,
                currency="EUR",
                versions=(PlanVersion(version=1, effective=SINCE, rates=(Rate(service="data"),)),),
            )
            for name in ("p", "q")
        ),
        pools=(Pool(id="s", account="a", kind="dynamic"),),
        addons=(
            Addon(
                id="x",
                iccid="1",
                service="data",
                amount=5,
                purchased_at=dt.datetime(2026, 10, 1, tzinfo=dt.UTC),
                expires_on=dt.date(2026, 10, 31),
            ),
        ),
        rules=(Rule(id="r", trigger="data_usage_cycle", threshold=5),),
        cards=cards(*({"iccid": f"{n:019}", "imsi": f"9{n:014}", "plan": "p"} for n in range(count))),
    )


def back(contents: list[bytes]) -> list[Message]:
    """The messages that were read."""
    return [read_message(content, WHERE) for content in contents]


@pytest.mark.parametrize(
    "entry",
    [
        Usage(batch(5)),
        Usage(batch(4, optional=True)),
        Usage(batch(4, optional=True), rated_table([Event("8988303000000000001", 7, 5000)])),
        Apply(catalogue(), 1_790_000_000_000_002),
        Apply(Catalogue()),
        Tick(-1),
        Commands(COMMANDS, -1),
        Commands(COMMANDS, 1_790_000_000_000_000, BASELINE),
    ],
    ids=["lean", "full", "corrections", "catalogue", "nothing", "tick", "commands", "baseline"],
)
@pytest.mark.parametrize("fence", [FENCE, Fence("ü", 0, 0, 7), None], ids=["raw", "piece", "unfenced"])
def test_an_entry_comes_back(entry: Entry, fence: Fence | None) -> None:
    """Every kind of entry is the same afterwards, with its fence and the offsets it takes."""
    (message,) = back(messages_of(entry, fence))
    assert fence == message.fence
    counts = {Usage: lambda: entry.batch.rows.height, Commands: lambda: len(entry.commands)}  # type: ignore[union-attr]
    assert counts.get(type(entry), lambda: 1)() == message.count
    found = message.entry()
    assert not isinstance(found, Rejects)
    assert_same(entry, found)
    if isinstance(entry, Apply):
        found = message.entry()
        assert isinstance(found, Apply)
        for name in ("accounts", "zones", "plans", "pools", "addons", "rules"):
            assert getattr(entry.catalogue, name) == getattr(found.catalogue, name)
        assert entry.catalogue.cards.equals(found.catalogue.cards, null_equal=True)


def test_nothing_is_no_message() -> None:
    """Usage without records and a list of no commands are not sent."""
    assert [] == messages_of(Usage(batch(0)), FENCE)
    assert [] == messages_of(Commands((), 5), FENCE)


@given(st.integers(1, 60), st.booleans(), st.integers(900, 3000))
def test_usage_in_pieces_is_the_usage(count: int, optional: bool, limit: int) -> None:
    """Pieces stay below the limit, count on, and hold each record once and in order."""
    whole = batch(count, optional=optional)
    try:
        contents = messages_of(Usage(whole), FENCE._replace(part=4), limit)
    except WorldError:
        with pytest.raises(WorldError):  # then one record alone was too large
            messages_of(Usage(batch(1, optional=optional, start=count - 1)), FENCE, limit - 64)
        return
    assert max(map(len, contents)) <= limit
    messages = back(contents)
    ends = list(accumulate((one.parts for one in messages), initial=4))
    assert [FENCE._replace(part=part) for part in ends[:-1]] == [one.fence for one in messages]
    assert 4 + count == ends[-1]
    found = [one.entry() for one in messages]
    assert [one.count for one in messages] == [one.batch.rows.height for one in found]  # type: ignore[union-attr]
    rows = pl.concat([one.batch.rows for one in found])  # type: ignore[union-attr]
    assert rows.equals(whole.rows, null_equal=True)


def test_a_batch_is_cut_into_few_pieces() -> None:
    """What is twice as large as a message becomes three pieces at most, of about one size."""
    whole = Usage(batch(4000))
    (alone,) = messages_of(whole, FENCE)
    pieces = messages_of(whole, FENCE, len(alone) // 2)
    assert 2 <= len(pieces) <= 3
    assert max(map(len, pieces)) < 1.2 * min(map(len, pieces))


def test_a_catalogue_in_pieces_brings_first_what_is_named_later() -> None:
    """Pieces of a catalogue are small, hold every entry once, and name only what is there by then."""
    whole = catalogue(900)
    contents = messages_of(Apply(whole, 7), FENCE, 9000)
    assert max(map(len, contents)) <= 9000
    found = [one.entry() for one in back(contents)]
    parts = [one.catalogue for one in found if isinstance(one, Apply)]
    assert len(parts) == len(found) > 3
    assert {7} == {one.at_us for one in found if isinstance(one, Apply)}
    for name in ("accounts", "zones", "plans", "pools", "addons", "rules"):
        assert getattr(whole, name) == tuple(item for part in parts for item in getattr(part, name))
    assert whole.cards.equals(pl.concat([part.cards for part in parts]), null_equal=True)
    place = {name: [n for n, part in enumerate(parts) if len(getattr(part, name))] for name in vars(whole)}
    for before, after in [("accounts", "pools"), ("plans", "cards"), ("pools", "cards"), ("cards", "addons")]:
        assert max(place[before]) <= min(place[after])


def test_commands_are_cut_between_commands() -> None:
    """Many commands become several entries that came at the same time."""
    commands = COMMANDS * 40
    contents = messages_of(Commands(commands, 9), FENCE, 1500)
    assert max(map(len, contents)) <= 1500
    found = [one.entry() for one in back(contents)]
    assert commands == tuple(command for one in found if isinstance(one, Commands) for command in one.commands)
    assert [9] * len(contents) == [one.at_us for one in found if isinstance(one, Commands)]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Usage(batch(1)), r"row 1 of day.csv \(feed 1nce\) takes [0-9,]+ bytes; "),
        (Usage(batch(3), rated_table([Event("8988303000000000001", 7, 5000)])), "3 corrections with what they undo"),
        (Commands(COMMANDS, 5, BASELINE), "a command that starts a rule"),
        (Apply(catalogue(1)), "an entry of the catalogue takes"),
    ],
    ids=["record", "corrections", "baseline", "catalogue"],
)
def test_what_cannot_be_cut_is_refused(entry: Entry, said: str) -> None:
    """One record, corrections and a baseline that are larger than a message say so, and what to do."""
    with pytest.raises(WorldError, match=said + r".*expected at most.*max\.message\.bytes"):
        messages_of(entry, FENCE, 220)


@given(st.data())
def test_any_flipped_bit_is_found(data: st.DataObject) -> None:
    """Whatever bit of a message is another one, or where it is cut off: it is refused with its place and advice."""
    (content,) = messages_of(Usage(batch(3)), FENCE)
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for damaged in (bytes(flipped), content[: data.draw(st.integers(0, len(content) - 1))]):
        with pytest.raises(StorageError, match=r"^journal\[3\]@17: "):
            read_message(damaged, WHERE)


def test_what_is_wrong_is_said() -> None:
    """Damage, another layout, another kind and foreign content each have words of their own."""
    (content,) = messages_of(Tick(1), FENCE)
    with pytest.raises(StorageError, match="does not fit its checksum; stop the workers and restore the topic"):
        read_message(content[:-1] + b"\x07", WHERE)
    with pytest.raises(StorageError, match="found layout 02; this version of weir knows 01: upgrade the workers"):
        read_message(b"WMSG\x02" + content[5:], WHERE)
    with pytest.raises(StorageError, match=r"begins with b'\{\"icc'; expected .* let nothing else write to this topic"):
        read_message(b'{"iccid": "1"}', WHERE)
    message = read_message(content, WHERE)
    with pytest.raises(StorageError, match=r"entry of kind 77, this version of weir knows 1 \(usage\)"):
        Message(None, 1, 1, 77, message.payload, WHERE, 1).entry()
    with pytest.raises(StorageError, match=r"found content of another shape .* use the one that wrote it"):
        Message(None, 1, 1, 1, message.payload, WHERE, 1).entry()


def sent(fence: Fence | None, parts: int) -> Message:
    """A message of so many parts."""
    return Message(fence, parts, parts, 1, b"", WHERE, parts)


def test_fences_skip_what_was_applied() -> None:
    """Messages after the last applied position of their source are new. Each source has a fence of its own."""
    fences = Fences()
    at = Fence("usage.raw", 0, 10)
    assert 0 == fences.take(sent(at, 3))
    assert 3 == fences.take(sent(at, 3))
    assert 0 == fences.take(sent(at._replace(part=3), 2))
    assert 3 == fences.take(sent(at, 3))
    assert 0 == fences.take(sent(at._replace(partition=1, offset=3), 1))
    assert 0 == fences.take(sent(at._replace(topic="commands", offset=0), 1))
    assert 0 == fences.take(sent(at._replace(offset=12), 1))
    assert 9 == fences.take(sent(at._replace(offset=11), 9))
    assert [0, 0] == [fences.take(sent(None, 5)), fences.take(sent(None, 5))]


@given(st.integers(1, 30), st.integers(1000, 3000), st.integers(1000, 3000), st.integers(0, 30))
def test_a_repeat_that_is_cut_otherwise_adds_nothing(count: int, limit: int, other: int, first: int) -> None:
    """A source offset that is sent again in other pieces leaves each record once, wherever it was interrupted."""
    whole = Usage(batch(count, optional=True))
    try:
        ways = [messages_of(whole, FENCE, size) for size in (limit + 500, other + 500)]
    except WorldError:
        return
    fences, rows = Fences(), []
    for message in back([*ways[0][:first], *ways[1]]):
        skip = fences.take(message)
        if skip < message.parts:
            entry = message.entry(skip)
            assert isinstance(entry, Usage)
            rows.append(entry.batch.rows)
    assert pl.concat(rows).equals(whole.batch.rows, null_equal=True)


def test_a_missing_piece_is_found() -> None:
    """A part that comes before those it follows stops the fold; the message says what is missing."""
    fences = Fences((Fence("usage.raw", 5, 7, 4),))
    for fence, expected in [(Fence("usage.raw", 5, 7, 5), 4), (Fence("usage.raw", 5, 8, 1), 0)]:
        with pytest.raises(
            StorageError, match=rf"part {fence.part} of usage.raw\[5\]@{fence.offset}.* part {expected}:"
        ):
            fences.take(sent(fence, 1))


@pytest.mark.parametrize("entry", [Apply(catalogue(2)), Commands(COMMANDS, 5)], ids=["catalogue", "commands"])
def test_an_entry_is_read_from_a_part_on(entry: Entry) -> None:
    """What is left of a catalogue or of commands after some parts is what those parts do not hold."""
    (message,) = back(messages_of(entry, FENCE))
    left = message.entry(message.parts - 1)
    if isinstance(left, Commands):
        assert (COMMANDS[-1:], 5) == (left.commands, left.at_us)
    else:
        assert isinstance(left, Apply)
        assert (catalogue().rules, 0) == (left.catalogue.rules, len(left.catalogue.cards))


def run(offsets: list[int]) -> Usage:
    """A run of single records from these source offsets."""
    whole = batch(len(offsets))
    rows = whole.rows.with_columns(source_row=pl.Series(offsets, dtype=pl.Int64), quantity=pl.int_range(len(offsets)))
    return Usage(replace(whole, rows=rows))


def refused(offsets: list[int]) -> Rejects:
    """Rejects of these source rows."""
    names = (["s", "t"] * len(offsets))[: len(offsets)]
    columns = {"source_row": offsets, "raw": [b"x" * (n % 7) for n in range(len(offsets))], "source": names}
    arrays = [pa.array(columns.get(field.name, [None] * len(offsets)), field.type) for field in REJECTED]
    return Rejects(pa.table(arrays, schema=REJECTED))


RUN = Fence.run("usage.raw", 5)


def content_of(entry: Entry | Rejects) -> list[tuple[int, int | bytes]]:
    """Source offset and content of each row of a run."""
    if isinstance(entry, Rejects):
        return list(zip(entry.rows["source_row"].to_pylist(), entry.rows["raw"].to_pylist(), strict=True))
    assert isinstance(entry, Usage)
    return entry.batch.rows.select("source_row", "quantity").rows()


def applied(contents: list[bytes], fences: Fences) -> list[tuple[int, int | bytes]]:
    """Source offset and content of the rows that fences leave of messages."""
    rows = []
    for message in back(contents):
        skip = fences.take(message)
        rows += content_of(message.entry(skip)) if skip < message.parts else []
    return rows


@st.composite
def sendings(draw: st.DrawFn) -> tuple[list[int], list[list[tuple[int, int]]]]:
    """Ascending source offsets, some twice, and how writers cut them into runs: each begins where one offset does."""
    steps = draw(st.lists(st.integers(0, 2), min_size=1, max_size=25))
    offsets = list(accumulate(steps, initial=draw(st.integers(0, 3))))
    starts = [n for n, offset in enumerate(offsets) if n == 0 or offset > offsets[n - 1]]
    writers = []
    for number in range(draw(st.integers(1, 4))):
        begin = 0 if number == 0 else draw(st.sampled_from(starts))
        cuts = sorted(draw(st.sets(st.sampled_from(range(begin + 1, len(offsets) + 1)), max_size=6)) | {len(offsets)})
        writers.append(list(pairwise([begin, *cuts])))
    return offsets, writers


@given(sendings(), st.data(), st.booleans(), st.integers(1500, 4000))
def test_runs_are_applied_once_however_they_are_cut(
    sent: tuple[list[int], list[list[tuple[int, int]]]], data: st.DataObject, rejects: bool, limit: int
) -> None:
    """Runs cut anywhere, cut again by size, repeated from any offset and interleaved leave each row once, in order.

    A writer that begins later does so at an offset up to which rows were applied, as the one before it had said so.
    """
    offsets, writers = sent
    whole = refused(offsets) if rejects else run(offsets)
    queues = []
    for pieces in writers:
        fence, queue = RUN, []
        for start, stop in pieces:
            piece = _cut(whole, start, stop)
            queue += messages_of(piece, fence, limit + 2400 * rejects)
            fence = fence.after(piece)
        queues.append((offsets[pieces[0][0]], queue))
    fences, rows = Fences(), list[tuple[int, int | bytes]]()
    while any(queue for _, queue in queues):
        reached = len(rows)
        able = [queue for begin, queue in queues if queue and not [one for one in offsets[reached:] if one < begin]]
        queue = data.draw(st.sampled_from(able))
        for _ in range(data.draw(st.integers(1, 3))):
            rows += applied(queue[:1], fences)
            del queue[:1]
        fences = Fences.from_bytes(fences.to_bytes())
    assert content_of(whole) == rows


def _cut(entry: Usage | Rejects, start: int, stop: int) -> Usage | Rejects:
    if isinstance(entry, Rejects):
        return Rejects(entry.rows.slice(start, stop - start))
    return Usage(replace(entry.batch, rows=entry.batch.rows[start:stop]))


def test_fences_of_a_run_say_its_offsets() -> None:
    """A run has its first and last offset, and the parts of the first that came before; one offset is no run."""
    whole = run([4, 4, 7, 9, 9])
    (message,) = back(messages_of(whole, RUN))
    assert (Fence("usage.raw", 5, 9, 0, 4), 2) == (message.fence, message.of_last)
    fence = RUN.after(_cut(whole, 0, 1))
    (message,) = back(messages_of(_cut(whole, 1, 4), fence))
    assert (Fence("usage.raw", 5, 9, 1, 4), 1) == (message.fence, message.of_last)
    (message,) = back(messages_of(_cut(whole, 4, 5), fence.after(_cut(whole, 1, 4))))
    assert (Fence("usage.raw", 5, 9, 1), 1) == (message.fence, message.of_last)


def test_a_run_goes_on_within_its_last_offset() -> None:
    """Of a run whose last offset was applied in part, exactly the rest of that offset is left."""
    whole, fences = run([4, 7, 9, 9, 9]), Fences()
    applied(messages_of(_cut(whole, 0, 4), RUN), fences)
    assert [(9, 4)] == applied(messages_of(whole, RUN), fences)
    assert [] == applied(messages_of(whole, RUN), fences)


def test_what_is_no_run_is_refused() -> None:
    """Rows that do not ascend, also from those before them, and entries without rows cannot be a run."""
    for entry, fence in [(run([4, 3]), RUN), (run([4]), RUN.after(run([5]))), (run([-1]), RUN)]:
        with pytest.raises(ValueError, match="must ascend"):
            messages_of(entry, fence)
    with pytest.raises(ValueError, match="only usage and rejects"):
        messages_of(Tick(1), RUN)


def test_a_missing_record_of_a_run_is_found() -> None:
    """A run that begins within an offset whose beginning was not applied stops the fold."""
    contents = messages_of(run([4, 4]), RUN.after(run([4])))
    with pytest.raises(StorageError, match=r"part 1 of usage.raw\[5\]@4; expected part 0"):
        Fences().take(back(contents)[0])


def test_runs_and_chunks_follow_each_other() -> None:
    """A source partition has chunks and single records; each is above the fence of the other."""
    fences = Fences()
    first = messages_of(Usage(batch(3)), Fence("usage.raw", 5, 10))
    then = messages_of(run([11, 12]), RUN)
    last = messages_of(Usage(batch(2)), Fence("usage.raw", 5, 13))
    assert [3, 2, 2] == [len(applied(contents, fences)) for contents in (first, then, last)]
    assert [] == applied([*first, *then, *last], fences)


def test_rejects_come_back() -> None:
    """Rejects keep every column, advance the fold by nothing, are cut by size, and none are no message."""
    whole = refused(list(range(400)))
    contents = messages_of(whole, FENCE, 6000)
    assert max(map(len, contents)) <= 6000
    messages = back(contents)
    assert {(0, 5, True)} == {(one.count, one.kind, one.fence is not None and one.fence.rejects) for one in messages}
    found = [one.entry() for one in messages]
    tables = [one.rows for one in found if isinstance(one, Rejects)]
    assert len(tables) == len(found) > 1
    assert pa.concat_tables(tables).equals(whole.rows)
    assert [] == messages_of(refused([]), FENCE)
    with pytest.raises(WorldError, match="the reject of row 7 of s takes"):
        messages_of(refused([7]), FENCE, 300)


def test_rejects_are_fenced_apart() -> None:
    """Usage and rejects of one source come in any order and do not count for each other."""
    usage, rejects = messages_of(run([3, 5, 9]), RUN), messages_of(refused([4, 6]), RUN)
    for contents in ([*usage, *rejects], [*rejects, *usage]):
        fences = Fences()
        assert 5 == len(applied(contents, fences))
        again = Fences.from_bytes(fences.to_bytes())
        assert [] == applied(contents, again)


def test_fences_come_back() -> None:
    """What was applied is kept as bytes, the same ones whatever came first."""
    sources = [Fence("usage.raw", 1, 7, 2), Fence("commands", 0, 1 << 50, 1)]
    one, other = Fences(tuple(sources)), Fences(tuple(reversed(sources)))
    assert one.to_bytes() == other.to_bytes()
    again = Fences.from_bytes(one.to_bytes())
    assert [2, 1] == [again.take(sent(fence._replace(part=0), fence.part)) for fence in sources]
    assert 0 == again.take(sent(sources[0], 1))
