"""Bases of a partition: what is written again, what is removed, which one is restored."""

from __future__ import annotations

import msgspec
import pytest

from pipeline.journal.entries import Apply, Tick
from pipeline.journal.messages import LIMIT_BYTES
from pipeline.streaming.rate.checkpoints import Draft, Kept, draft, restore
from pipeline.streaming.rate.fold import PartitionFold
from rating.errors import StorageError
from schemas.cards import Account, Catalogue
from schemas.plans import Price, Rate
from tests.support.fold_case import cards, plan
from tests.unit.test_partition_fold import AT_US, message, opened, records

CARDS = 40_000


def started(count: int = 3) -> PartitionFold:
    """A fold with so many cards."""
    change = Catalogue(
        accounts=(Account(id="a"),),
        plans=(plan(Rate(service="data", price=Price(model="flat", price="0.01"))),),
        cards=cards(*({"iccid": f"{name:019}", "plan": "p"} for name in range(count))),
    )
    fold = PartitionFold(3)
    fold.step(opened(fold, message(Apply(change, AT_US), 0)))
    return fold


def use(fold: PartitionFold, key: str, iccid: int = 1) -> None:
    """One record."""
    entry = records(1, {"iccid": f"{iccid:019}", "record_key": key})
    fold.step(opened(fold, message(entry, fold.applied + 1)))


def write(items: dict[bytes, bytes], made: Draft) -> dict[bytes, int]:
    """Put a base into the items; the sizes of what was written."""
    found = list(made.messages())
    items.update(found)
    for key in made.obsolete():
        del items[key]
    return {key: len(value) for key, value in found}


def based(fold: PartitionFold, items: dict[bytes, bytes], former: Kept | None = None) -> Kept:
    """Write a base of the fold."""
    made = draft(fold, former)
    write(items, made)
    return made.kept


def names(written: dict[bytes, int]) -> list[str]:
    """The names of the segments, each once, in order."""
    return list(dict.fromkeys(key.split(b"/")[2].decode() for key in written if b"/seg/" in key))


def test_nothing_is_restored_from_nothing() -> None:
    """Without a base, or with segments alone, the journal is folded from its beginning."""
    assert restore(3, {}) is None
    items: dict[bytes, bytes] = {}
    based(started(), items)
    assert restore(3, {key: value for key, value in items.items() if b"/seg/" in key}) is None
    assert restore(4, items) is None


def test_a_base_holds_offset_fences_and_partition() -> None:
    """What was applied is not applied again, nor what comes once more under a new offset."""
    fold, items = started(), dict[bytes, bytes]()
    use(fold, "k")
    based(fold, items)
    restored = restore(3, items)
    assert restored is not None
    again = restored.fold
    assert (3, 1, fold.fences.to_bytes()) == (again.partition, again.applied, again.fences.to_bytes())
    assert 0 == again.step(opened(again, message(records(1, {"record_key": "k"}), 1))).counts.records
    twice = again.step(opened(again, message(records(1, {"iccid": f"{1:019}", "record_key": "k"}), 2)))
    assert (1, 1) == (twice.counts.records, twice.counts.duplicates)


def test_only_what_changed_is_written_again() -> None:
    """Cards only with a catalogue, and then their segments that changed; runs of keys once; segments fit messages."""
    fold, items = started(CARDS), dict[bytes, bytes]()
    use(fold, "k1")
    made = draft(fold, None)
    first = write(items, made)
    assert {"facts", "cards", "plan_history", "counters", "seen"} <= set(names(first))
    assert max(first.values()) <= LIMIT_BYTES
    use(fold, "k2", 7)
    second = draft(fold, made.kept)
    assert {"facts", "counters", "seen"} == set(names(write(items, second)))
    changed = Catalogue(cards=cards({"iccid": f"{1:019}", "plan": "p", "status": "silent"}))
    fold.step(opened(fold, message(Apply(changed, AT_US), 9)))
    third = draft(fold, second.kept)
    written = write(items, third)
    assert ["facts", "cards", "fact_history"] == names(written)
    assert 1 == sum(b"/seg/cards/" in key for key in written)
    restored = restore(3, items)
    assert restored is not None
    assert restored.fold.engine.state.catalogue.cards.equals(fold.engine.state.catalogue.cards, null_equal=True)
    assert 2 == len(restored.fold.engine.state.seen)


def test_a_draft_stands_still_while_the_fold_goes_on() -> None:
    """What is folded between draft and messages is not in the base."""
    fold, items = started(), dict[bytes, bytes]()
    use(fold, "k1")
    made = draft(fold, None)
    use(fold, "k2")
    write(items, made)
    restored = restore(3, items)
    assert restored is not None
    assert (1, 1) == (restored.fold.applied, len(restored.fold.engine.state.seen))
    counters = restored.fold.engine.state.counters
    assert ([10], [20]) == (counters["raw"].tolist(), fold.engine.state.counters["raw"].tolist())


def test_the_base_before_is_kept_and_the_one_before_it_removed() -> None:
    """A base that lost a segment or its manifest has the one before; what neither names is gone."""
    fold, items, kept = started(), dict[bytes, bytes](), None
    for number in range(4):
        use(fold, f"k{number}")
        kept = based(fold, items, kept)
    bases = [key for key in items if b"/base/" in key]
    assert [b"3/base/%020d" % offset for offset in (3, 4)] == bases
    assert kept is not None
    newest = items.keys() & kept.keys()
    for lost in sorted(newest):
        left = {key: value for key, value in items.items() if key != lost}
        restored = restore(3, left)
        shared = lost not in kept.keys() - kept.older
        assert (restored is None) == shared
        assert restored is None or restored.fold.applied == 3
    damaged = items | {key: items[key][:-1] for key in newest - kept.older}
    restored = restore(3, damaged)
    assert restored is not None
    assert 3 == restored.fold.applied


def test_runs_are_merged_as_in_a_data_directory() -> None:
    """Four runs of one size become one, which is looked up from the next base on."""
    fold, items, kept = started(), dict[bytes, bytes](), None
    lengths = []
    for number in range(6):
        use(fold, f"k{number}")
        kept = based(fold, items, kept)
        lengths.append(len(fold.engine.state.seen.runs))
    assert [1, 2, 3, 4, 2, 3] == lengths
    restored = restore(3, items)
    assert restored is not None
    assert (6, 3) == (len(restored.fold.engine.state.seen), len(restored.fold.engine.state.seen.runs))


def test_what_a_dead_producer_left_is_removed() -> None:
    """Segments without a manifest go with the base after the next one."""
    fold, items, kept = started(), dict[bytes, bytes](), None
    use(fold, "k1")
    left = list(draft(fold, None).messages())[:-1]
    use(fold, "k2")
    fold = started()
    for key in ("k1", "k2"):
        use(fold, key)
    kept = based(fold, items)
    items.update(left)
    restored = restore(3, items)
    assert restored is not None
    fold, kept = restored
    for number in range(2):
        use(fold, f"m{number}")
        kept = based(fold, items, kept)
    named = kept.keys() | kept.older
    assert set(items) == {key for key in items if key in named}


def test_a_base_of_another_format_says_what_to_do() -> None:
    """It is not skipped silently: the journal before it may be gone."""
    fold, items = started(), dict[bytes, bytes]()
    fold.step(opened(fold, message(Tick(AT_US), 1)))
    kept = based(fold, items)
    manifest = msgspec.json.decode(items[kept.key]) | {"format": 2}
    items[kept.key] = msgspec.json.encode(manifest)
    with pytest.raises(StorageError, match=r"base 3/base/0+1: found format 2; .* knows 1: use the one that wrote it"):
        restore(3, items)


def test_a_draft_tells_nothing_before_its_messages() -> None:
    """What the next base needs is known once the messages have been made."""
    with pytest.raises(ValueError, match="have not been made"):
        _ = draft(started(), None).kept


def test_digests_of_a_base_have_a_name() -> None:
    """A base without one is from before the name was written; one of another algorithm is refused by name."""
    fold, items = started(), dict[bytes, bytes]()
    use(fold, "k")
    kept = based(fold, items)
    manifest = msgspec.json.decode(items[kept.key])
    assert "xxh3-128" == manifest.pop("digests")
    items[kept.key] = msgspec.json.encode(manifest)
    restored = restore(3, items)
    assert restored is not None
    assert 1 == len(restored.fold.engine.state.seen)
    items[kept.key] = msgspec.json.encode(manifest | {"digests": "blake3"})
    with pytest.raises(StorageError, match=r"base 3/base/0+1: found digests of the algorithm 'blake3'; .* xxh3-128"):
        restore(3, items)
