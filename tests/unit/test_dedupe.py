"""Digests of keys and contents, the filter's false positives, and the memory a key costs (F4)."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from rating.dedupe.bloom import bits_of, enter, may_hold, words_for
from rating.dedupe.runs import Recent, order_of, run_of
from rating.dedupe.seen import KEEP_DAYS, Seen, digest, first_in_batch
from schemas.usage import USAGE_SCHEMA
from tests.support.content import content_digest


def usage(**columns: object) -> pl.DataFrame:
    """Two usage rows with these columns changed."""
    base = {
        "record_key": ["a", "b"],
        "iccid": ["8988303000000000001", "8988303000000000002"],
        "service": [0, 0],
        "direction": [0, 0],
        "quantity": [100, 200],
        "used_at": [datetime(2026, 10, 7, tzinfo=UTC)] * 2,
        "source_row": [1, 2],
    }
    return pl.DataFrame(base | columns, schema={name: USAGE_SCHEMA[name] for name in base | columns})


def spread(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """So many different keys, evenly spread like digests."""
    draw = np.random.default_rng(seed)
    return (
        draw.integers(0, 1 << 64, count, dtype=np.uint64),
        draw.integers(0, 1 << 64, count, dtype=np.uint64),
    )


def test_digest_is_the_published_xxh3_128() -> None:
    """The two halves are the 128-bit XXH3 of the key, seeded by the feed, so stored digests stay valid."""
    hi, lo = digest("1nce", pl.Series(["k1", "k2", "k1", ""]))
    assert (np.uint64, np.uint64) == (hi.dtype, lo.dtype)
    assert (0x77D51C3FFC3880FB, 0x9C8443DA3FBF49DD) == (int(hi[0]), int(lo[0]))
    assert (hi[0], lo[0]) == (hi[2], lo[2])
    assert 3 == len({(int(h), int(low)) for h, low in zip(hi, lo, strict=True)})


def test_digests_of_two_feeds_differ() -> None:
    """The same record key in two feeds is two keys."""
    assert (digest("1nce", pl.Series(["k"]))[1] != digest("emnify", pl.Series(["k"]))[1]).all()


def test_digest_of_no_keys() -> None:
    """An empty batch has empty digests."""
    hi, lo = digest("1nce", pl.Series([], dtype=pl.String))
    assert (0, 0) == (len(hi), len(lo))


def test_absent_columns_count_like_nulls() -> None:
    """A lean frame and the same frame with all optional columns null have the same content."""
    lean = usage()
    full = lean.with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in USAGE_SCHEMA.items() if name not in lean.columns
    )
    assert content_digest(lean).tolist() == content_digest(full).tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"iccid": ["8988303000000000009", "8988303000000000002"]},
        {"imsi": ["262010000000001", None]},
        {"msisdn": ["4917100000001", None]},
        {"service": [1, 0]},
        {"direction": [3, 0]},
        {"quantity": [101, 200]},
        {"volume_up_bytes": [0, None]},
        {"volume_down_bytes": [0, None]},
        {"used_at": [datetime(2026, 10, 8, tzinfo=UTC), datetime(2026, 10, 7, tzinfo=UTC)]},
        {"session_id": ["s", None]},
        {"sequence": [0, None]},
        {"record_type": [4, 0]},
        {"corrects_key": ["z", None]},
        {"plmn": ["26201", None]},
    ],
)
def test_any_change_of_content_shows(change: dict[str, object]) -> None:
    """Changing one field changes the digest of that record and of no other; 0 and null differ."""
    before, after = content_digest(usage()), content_digest(usage(**change))
    assert [False, True] == (before == after).tolist()


def test_position_and_record_type_event_are_not_content() -> None:
    """The row in the source is not content, and a null record type is an EVENT."""
    assert content_digest(usage()).tolist() == content_digest(usage(source_row=[7, 8], record_type=[None, 0])).tolist()


def test_up_and_down_do_not_cancel() -> None:
    """Swapping two numbers between columns is another content."""
    one = usage(volume_up_bytes=[10, 20], volume_down_bytes=[20, 10])
    other = usage(volume_up_bytes=[20, 10], volume_down_bytes=[10, 20])
    assert [False, False] == (content_digest(one) == content_digest(other)).tolist()


def test_order_of_is_stable_and_sorted() -> None:
    """The two-pass sort gives what a stable argsort gives."""
    _, lo = spread(10_000)
    lo[5_000:] = lo[:5_000]
    assert np.argsort(lo, kind="stable").tolist() == order_of(lo).tolist()


def test_filter_holds_what_was_entered_and_little_else() -> None:
    """No entered key is missed, and under 1 % of unknown keys pass."""
    hi, lo = spread(200_000)
    words = np.zeros(words_for(len(lo)), np.uint64)
    enter(words, lo, hi)
    assert may_hold(words, lo, bits_of(hi)).all()
    other_hi, other_lo = spread(200_000, seed=2)
    assert may_hold(words, other_lo, bits_of(other_hi)).mean() < 0.01


def test_a_run_costs_about_two_bytes_a_key_in_memory() -> None:
    """Filter and fence of a run take 2.04 bytes a key; the columns may stay on disk."""
    _, lo = spread(100_000)
    order = np.sort(lo)
    recent = Recent()
    seen = Seen()
    seen.add(order, order, order, 20_000)
    run = run_of(seen.seal())
    assert 0 == len(recent)
    assert run.memory_bytes / len(run) < 2.05


def test_keys_expire_after_32_days_and_not_before() -> None:
    """On the 32nd day after its arrival a key is known, on the 33rd it is not, and it can then be entered again."""
    hi, lo = spread(10)
    seen = Seen()
    seen.add(hi, lo, lo, 20_000)
    seen.replace_runs([run_of(seen.seal())])
    assert seen.lookup(hi, lo, 20_000 + KEEP_DAYS)[0].all()
    assert not seen.expired(seen.runs[0])
    assert not seen.lookup(hi, lo, 20_001 + KEEP_DAYS)[0].any()
    assert seen.expired(seen.runs[0])
    seen.add(hi, lo, hi, 20_001 + KEEP_DAYS)
    known, content = seen.lookup(hi, lo, 20_001 + KEEP_DAYS)
    assert known.all()
    assert hi.tolist() == content.tolist()


def test_many_batches_without_a_checkpoint() -> None:
    """Keys stay exact while pieces are joined and the filter grows; a repeated batch is known as a whole."""
    hi, lo = spread(60_000)
    seen = Seen()
    for start in range(0, 60_000, 500):
        part = slice(start, start + 500)
        assert not seen.lookup(hi[part], lo[part], 20_000)[0].any()
        seen.add(hi[part], lo[part], hi[part], 20_000)
    known, content = seen.lookup(hi, lo, 20_000)
    assert known.all()
    assert hi.tolist() == content.tolist()
    assert 60_000 == len(seen)


def test_first_in_batch_of_distinct_keys_is_themselves() -> None:
    """Without repeats each key is its own first."""
    hi, lo = spread(1_000)
    assert list(range(1_000)) == first_in_batch(hi, lo).tolist()
