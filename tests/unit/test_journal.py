"""What was appended comes back: entry by entry, from any entry on, and damage is found."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.journal import segments as journal
from pipeline.journal.entries import written
from pipeline.journal.segments import Apply, Commands, Entry, Journal, Tick, Usage, encode
from pipeline.store.background import Background
from pipeline.store.directory import DataDirectory
from rating.errors import StorageError
from schemas.cards import CARD_SCHEMA, Account, Catalogue
from schemas.commands import Activate, Connected, Failed, PlanChanged, StatusChanged
from schemas.usage import USAGE_SCHEMA, UsageBatch
from tests.support.rated_rows import Event, rated_table


def batch(count: int, *, optional: bool = False, start: int = 0) -> UsageBatch:
    """A batch of so many lean records, or with every optional column and nulls in each."""
    numbers = range(start, start + count)
    columns: dict[str, object] = {
        "record_key": [f"k{n}" for n in numbers],
        "service": [n % 3 for n in numbers],
        "direction": [0] * count,
        "quantity": [n * 1000 for n in numbers],
        "used_at": [dt.datetime(2026, 10, 7, tzinfo=dt.UTC) + dt.timedelta(seconds=n) for n in numbers],
        "source_row": [n + 1 for n in numbers],
    }
    frame = pl.DataFrame(columns, schema={name: USAGE_SCHEMA[name] for name in columns})
    if optional:
        frame = frame.with_columns(
            pl.when(pl.col("source_row") % 2 == 0).then(pl.lit("7").cast(pl.Int64)).cast(kind).alias(name)
            for name, kind in USAGE_SCHEMA.items()
            if name not in columns
        )
    return UsageBatch("1nce", "day.csv", 1_790_000_000_000_000, False, frame)


def catalogue() -> Catalogue:
    """One account and no cards."""
    return Catalogue(
        accounts=(Account(id="acme", name="Acme"),),
        zones=(),
        plans=(),
        pools=(),
        addons=(),
        cards=pl.DataFrame(schema=CARD_SCHEMA),
    )


def write(path: Path, entries: list[Entry], **options: int) -> list[int]:
    """Append entries in one checkpoint; their offsets."""
    with DataDirectory.open(path, write=True) as directory, directory.begin() as step, Background() as background:
        log = Journal(step, background, journal.end_offset(directory), **options)
        offsets = [log.append(entry) for entry in entries]
        log.finish()
        step.commit()
    return offsets


def read(path: Path, from_offset: int = 0) -> list[tuple[int, Entry]]:
    """All committed entries from an offset on."""
    with DataDirectory.open(path, write=False) as directory:
        return list(journal.read(directory, from_offset))


def assert_same(expected: Entry, actual: Entry) -> None:
    """Entries are equal, frames compared by value."""
    if isinstance(expected, Tick):
        assert expected == actual
    elif isinstance(expected, Commands):
        assert isinstance(actual, Commands)
        assert (expected.commands, expected.at_us) == (actual.commands, actual.at_us)
        assert (expected.baseline is None) == (actual.baseline is None)
        if expected.baseline is not None and actual.baseline is not None:
            assert expected.baseline.schema == actual.baseline.schema
            assert expected.baseline.equals(actual.baseline, null_equal=True)
    elif isinstance(expected, Apply):
        assert isinstance(actual, Apply)
        assert (expected.catalogue.accounts, expected.at_us) == (actual.catalogue.accounts, actual.at_us)
    else:
        assert isinstance(actual, Usage)
        assert (expected.batch.feed, expected.batch.source) == (actual.batch.feed, actual.batch.source)
        assert expected.batch.received_at_us == actual.batch.received_at_us
        assert expected.batch.cumulative == actual.batch.cumulative
        assert expected.batch.rows.schema == actual.batch.rows.schema
        assert expected.batch.rows.equals(actual.batch.rows, null_equal=True)
        assert (expected.originals is None) == (actual.originals is None)
        if expected.originals is not None and actual.originals is not None:
            assert expected.originals.schema == actual.originals.schema
            assert expected.originals.to_pylist() == actual.originals.to_pylist()


def test_entries_come_back_with_their_offsets(data_dir: Path) -> None:
    """Usage counts its records, catalogues and ticks count one; order and content are kept."""
    originals = rated_table([Event("8988303000000000001", 7, 5000)])
    entries: list[Entry] = [
        Apply(catalogue()),
        Usage(batch(5)),
        Tick(1_790_000_000_000_001),
        Usage(batch(4, optional=True), originals),
        Usage(batch(0)),
        Tick(-1),
    ]
    assert [0, 1, 6, 7, 11, 11] == write(data_dir, entries)
    got = read(data_dir)
    assert [0, 1, 6, 7, 11] == [offset for offset, _ in got]
    for expected, (_, actual) in zip([*entries[:4], entries[5]], got, strict=True):
        assert_same(expected, actual)


def test_commands_come_back_each_with_an_offset_of_its_own(data_dir: Path) -> None:
    """Commands keep every field, their time and the baseline, count one each; a catalogue keeps its time."""
    at = dt.datetime(2026, 10, 7, 12, 0, 0, 5, tzinfo=dt.UTC)
    commands = (
        Activate(rule="cap", at=at, key="k-1"),
        PlanChanged(iccid="8988303000000000001", plan="b", from_=dt.date(2026, 11, 1)),
        Connected(iccid="8988303000000000001", imei="490154203237518"),
        Failed(action_id="0.7.8988303000000000001.1.cap", message='refused: "no"\n'),
    )
    baseline = pl.DataFrame({"slice": ["data", "data/DE"], "units": [7, None]}, schema_overrides={"units": pl.Int64})
    entries: list[Entry] = [
        Commands(commands, 1_790_000_000_000_000, baseline),
        Commands(commands[:1], -1),
        Commands((), 5),
        Apply(catalogue(), 1_790_000_000_000_002),
        Tick(7),
    ]
    assert [0, 4, 5, 5, 6] == write(data_dir, entries)
    got = read(data_dir)
    assert [0, 4, 5, 6] == [offset for offset, _ in got]
    for expected, (_, actual) in zip([*entries[:2], *entries[3:]], got, strict=True):
        assert_same(expected, actual)


def test_a_status_that_was_accepted_before_it_was_checked_is_read(data_dir: Path) -> None:
    """A journal may have a status that no command may give any more (C1): the entry is read all the same."""
    entry = Commands((StatusChanged(iccid="8988303000000000001", status="on hold"),), 1_790_000_000_000_000)
    write(data_dir, [entry])
    ((_, actual),) = read(data_dir)
    assert_same(entry, actual)


def test_reading_starts_at_any_entry(data_dir: Path) -> None:
    """Reading from the offset of an entry begins with it, over the ends of segments and checkpoints."""
    write(data_dir, [Usage(batch(3)), Usage(batch(2, start=3))], segment_bytes=1)
    assert [5, 8] == write(data_dir, [Usage(batch(3, start=5)), Tick(1)])
    for start, expected in [(0, [0, 3, 5, 8]), (3, [3, 5, 8]), (5, [5, 8]), (8, [8]), (9, [])]:
        assert expected == [offset for offset, _ in read(data_dir, start)]
    with pytest.raises(ValueError, match="offset 4 lies inside the entry at 3"):
        read(data_dir, 4)


def test_segments_are_cut_by_size(data_dir: Path) -> None:
    """A checkpoint has as many segments as its entries fill, and the manifest says which offsets each holds."""
    write(data_dir, [Usage(batch(2, start=2 * n)) for n in range(3)], segment_bytes=1)
    with DataDirectory.open(data_dir, write=False) as directory:
        segments = directory.manifest.group("journal")
        assert [f"journal/0000000001-{n:03}.journal" for n in range(3)] == [entry.path for entry in segments]
        assert [(0, 2), (2, 4), (4, 6)] == [(e.facts["first_offset"], e.facts["next_offset"]) for e in segments]
        assert 6 == journal.end_offset(directory)


def test_nothing_appended_is_no_segment(data_dir: Path) -> None:
    """A checkpoint without entries has no journal file."""
    write(data_dir, [])
    assert [] == read(data_dir)
    assert not (data_dir / "journal").exists()


@given(st.integers(0, 40), st.booleans(), st.integers(0, 1 << 60))
def test_same_entry_same_bytes(count: int, optional: bool, offset: int) -> None:
    """Encoding is a function of the entry and its offset alone, however its frame is chunked."""
    whole = batch(count, optional=optional)
    halves = pl.concat([whole.rows[: count // 2], whole.rows[count // 2 :]], rechunk=False)
    chunked = UsageBatch(whole.feed, whole.source, whole.received_at_us, whole.cumulative, halves)
    assert encode(written(Usage(whole)), offset) == encode(written(Usage(chunked)), offset)


@pytest.mark.parametrize("at", [0, 4, 9, 14, 22, 30, 60, -1])
def test_a_flipped_byte_is_found(data_dir: Path, at: int) -> None:
    """Damage of a segment is reported with its path and what to do."""
    write(data_dir, [Usage(batch(50))])
    (segment,) = (data_dir / "journal").iterdir()
    content = bytearray(segment.read_bytes())
    content[at] ^= 0x40
    segment.write_bytes(content)
    with pytest.raises(StorageError, match=r"0000000001-000.journal: the journal is damaged: .*; restore"):
        read(data_dir)


def test_a_segment_of_a_former_layout_is_refused_as_that(data_dir: Path) -> None:
    """A journal of an earlier layout is not called damaged: the version that wrote it reads it."""
    write(data_dir, [Tick(1)])
    (segment,) = (data_dir / "journal").iterdir()
    content = bytearray(segment.read_bytes())
    content[4] = 1
    segment.write_bytes(content)
    with pytest.raises(StorageError, match=r"layout 1, this version of weir knows 2; use the one that wrote it"):
        read(data_dir)


def test_an_entry_of_a_newer_kind_is_refused(data_dir: Path) -> None:
    """A kind of entry that this version does not know stops the reading with advice."""
    write(data_dir, [Tick(1)])
    (segment,) = (data_dir / "journal").iterdir()
    content = bytearray(segment.read_bytes())
    content[5] = 77
    segment.write_bytes(content)
    with pytest.raises(StorageError, match=r"entry of kind 77, this version of weir knows 1 \(usage\)"):
        read(data_dir)
