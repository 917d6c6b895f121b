"""Every ready mapping on its sample file: each line becomes just what was reviewed and checked in."""

from __future__ import annotations

import datetime as dt
import json
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.feeds.decode import open_source
from pipeline.feeds.lookups import with_lists
from pipeline.feeds.mappings import load_mapping, ready_mappings
from pipeline.feeds.ready import ready_feeds
from rating.mediation.records import mediate
from schemas.choices import REASONS
from schemas.usage import USAGE_SCHEMA, Direction, RecordType, Service

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "examples" / "feeds"
GOLDEN = ROOT / "tests" / "golden" / "feeds"
DOCUMENT = ROOT / "docs" / "feeds.md"
LISTS = ("cards.csv", "twilio-super-sim-sims.csv")  # beside the samples, not samples themselves

_CODES = {"service": Service, "direction": Direction, "record_type": RecordType}


def sample(feed: str) -> Path:
    """The one sample file of a feed: its name, whatever the suffix."""
    found = [path for path in SAMPLES.iterdir() if path.name not in LISTS and path.name.split(".")[0] == feed]
    assert 1 == len(found), f"{feed}: expected one sample in {SAMPLES}, found {[path.name for path in found]}"
    return found[0]


def outcomes(feed: str, chunk_bytes: int = 1 << 24) -> list[dict[str, Any]]:
    """What each line of the sample became, in source order, as the golden files write it."""
    mapping = with_lists(load_mapping(feed), SAMPLES)
    found: list[dict[str, Any]] = []
    for chunk in open_source(sample(feed), mapping, chunk_bytes=chunk_bytes):
        usage, rejects = mediate(chunk.raw, mapping)
        found += [{"usage": _usage(row)} for row in usage.iter_rows(named=True)]
        for row in pl.concat([chunk.rejects, rejects]).iter_rows(named=True):
            assert row["reason"] in REASONS
            assert row["message"], "a rejected line says what was found and what would be right"
            assert chunk.raw_lines([row["source_row"]])[0], "a rejected line keeps its bytes"
            found.append({"reject": {name: value for name, value in row.items() if value and name != "message"}})
    return sorted(found, key=lambda outcome: next(iter(outcome.values()))["source_row"])


def expected(feed: str) -> list[dict[str, Any]]:
    """The reviewed outcomes of the feed's sample."""
    return [json.loads(line) for line in (GOLDEN / f"{feed}.ndjson").read_text(encoding="utf-8").splitlines()]


def _usage(row: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in USAGE_SCHEMA:
        value = row.get(name)
        if value is None:
            continue
        if name in _CODES:
            value = _CODES[name](value).name.lower()
        elif isinstance(value, dt.datetime):
            value = value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
        shown[name] = value
    return shown


FEEDS = sorted(ready_feeds())


@pytest.mark.parametrize("feed", FEEDS)
def test_sample_becomes_the_reviewed_records(feed: str) -> None:
    """Every line of the sample becomes the usage or the rejection that the golden file holds, field by field."""
    assert expected(feed) == outcomes(feed)


@pytest.mark.parametrize("feed", FEEDS)
def test_small_chunks_change_nothing(feed: str) -> None:
    """A sample read in pieces of four kilobytes becomes the same records."""
    assert expected(feed) == outcomes(feed, chunk_bytes=4096)


@pytest.mark.parametrize("feed", FEEDS)
def test_sample_holds_what_the_feed_is_known_for(feed: str) -> None:
    """Each sample has a line sent twice, usage of October 2026 only, and lines that are rejected for two reasons."""
    usage = [outcome["usage"] for outcome in expected(feed) if "usage" in outcome]
    rejects = [outcome["reject"] for outcome in expected(feed) if "reject" in outcome]
    keys = [record["record_key"] for record in usage]
    assert len(set(keys)) < len(keys)
    assert all("2026-10-01T00:00:00Z" <= record["used_at"] < "2026-11-01T00:00:00Z" for record in usage)
    assert 2 <= len({(reject["reason"], reject.get("field")) for reject in rejects})


@pytest.mark.parametrize("feed", FEEDS)
def test_sample_names_cards_of_the_example_fleet(feed: str) -> None:
    """All usage of the samples is of cards in cards.csv, by ICCID or IMSI."""
    fleet = pl.read_csv(SAMPLES / "cards.csv", infer_schema=False)
    iccids, imsis = set(fleet["iccid"]), set(fleet["imsi"])
    for outcome in expected(feed):
        if "usage" in outcome:
            record = outcome["usage"]
            assert record["iccid"] in iccids if "iccid" in record else record["imsi"] in imsis


@pytest.mark.parametrize("feed", FEEDS)
def test_mapping_is_documented(feed: str) -> None:
    """Every ready mapping has a section of its own in docs/feeds.md, and its name is the name of its file."""
    assert f"\n## {feed}\n" in DOCUMENT.read_text(encoding="utf-8")
    assert feed == tomllib.loads(ready_feeds()[feed].read_text(encoding="utf-8"))["name"]


def test_nothing_lies_about_unused() -> None:
    """Samples and golden files exist for ready mappings only."""
    assert FEEDS == sorted(mapping.name for mapping in ready_mappings())
    assert FEEDS == sorted(path.stem for path in GOLDEN.iterdir())
    assert FEEDS == sorted(path.name.split(".")[0] for path in SAMPLES.iterdir() if path.name not in LISTS)
