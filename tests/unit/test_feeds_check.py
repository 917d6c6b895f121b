"""What `weir feeds list|show|check` tells about mappings and samples (F2)."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from jobs.ingest.feeds_check import check, list_feeds, render_check, render_list, show_feed
from pipeline.feeds.mappings import load_mapping
from tests.support.feed_files import HEADERS, feed, good_line


def test_a_check_tells_what_each_column_became(tmp_path: Path) -> None:
    """A check reports source, reading, a sample before and after, counts and first rejects, as data and as text."""
    path = tmp_path / "sample.csv"
    lines = [good_line("csv", 1), b"k2,8944,-3,2026-10-01", b"oops"]
    path.write_bytes(
        HEADERS["csv"].strip() + b",colour\n" + b"\n".join(line + b",red" for line in lines[:2]) + b"\noops\n"
    )
    report = check(feed("csv"), path)
    assert (3, 1, {"malformed": 1, "negative": 1}) == (report.source_records, report.usage_records, report.rejected)
    (quantity,) = [column for column in report.columns if column.field == "quantity"]
    assert ("bytes", "KB (base 1024)", "1.5", "1536", 1) == (
        quantity.source, quantity.reading, quantity.sample_in, quantity.sample_out, quantity.filled,
    )  # fmt: skip
    assert ("colour",) == report.unread
    assert [(3, "negative", "bytes"), (4, "malformed", None)] == [(r.row, r.reason, r.field) for r in report.rejects]
    assert "oops" == report.rejects[1].raw
    assert report.complete
    json.dumps(report.as_dict())
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render_check(report))
    text = console.export_text()
    assert "3 records read: 1 usage records, 2 rejected" in text
    assert "2026-10-02T10:00:00Z" in text


def test_a_check_stops_at_its_limit(tmp_path: Path) -> None:
    """Only the first records are looked at, and the report says so."""
    path = tmp_path / "sample.csv"
    path.write_bytes(HEADERS["csv"] + b"".join(good_line("csv", number) + b"\n" for number in range(50)))
    report = check(feed("csv"), path, limit=7)
    assert (7, 7, False) == (report.source_records, report.usage_records, report.complete)


def test_a_check_of_a_wrong_mapping_shows_the_source_sample(tmp_path: Path) -> None:
    """Where every record is refused, the sample of the source still shows why."""
    path = tmp_path / "sample.csv"
    path.write_bytes(HEADERS["csv"] + b"k1,8944,2,yesterday\n")
    report = check(feed("csv"), path)
    (used_at,) = [column for column in report.columns if column.field == "used_at"]
    assert ("yesterday", None, 0) == (used_at.sample_in, used_at.sample_out, used_at.filled)


def test_ready_feeds_are_listed_and_shown() -> None:
    """Each ready mapping has a line in the list and shows as a document that JSON can hold."""
    feeds = {entry["name"]: entry for entry in list_feeds()}
    assert ["data", "sms", "voice"] == feeds["plain"]["services"]
    assert len(feeds) == render_list(list(feeds.values())).row_count
    for name in feeds:
        document = show_feed(load_mapping(name))
        assert name == document["name"]
        json.dumps(document)
