"""Lists beside a feed file: the carrier's own id of a card becomes its ICCID, and what is wrong with a list is said."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipeline.feeds.lookups import with_lists
from pipeline.feeds.mappings import load_mapping, parse_mapping
from rating.errors import MappingError
from rating.mediation.records import mediate

MAPPING = """
name = "listed"
[format]
type = "ndjson"
[[records]]
service = "data"
key = ["sim", "at"]
key_optional = ["country"]
[records.fields]
iccid = { from = "sim", lookup = { file = "sims.csv", key = "sid", value = "iccid" } }
quantity = { from = "bytes" }
used_at = { from = "at" }
"""
RAW = pl.DataFrame(
    {
        "sim": ["HS1", "HS2", "HS9"],
        "at": ["2026-10-01T00:00:00Z"] * 3,
        "country": ["DE", None, "FR"],
        "bytes": ["10", "20", "30"],
        "source_row": [1, 2, 3],
    }
)


def test_listed_cards_are_found_and_others_unknown(tmp_path: Path) -> None:
    """A SID in the list becomes its ICCID; one that is not in it is rejected as an unknown card."""
    (tmp_path / "sims.csv").write_text("sid,name,iccid\nHS1,a,8900001\nHS2,b,8900002\n", encoding="utf-8")
    usage, rejects = mediate(RAW, with_lists(parse_mapping(MAPPING), tmp_path))
    assert ["8900001", "8900002"] == usage["iccid"].to_list()
    assert [("unknown_card", "sim")] == rejects.select("reason", "field").rows()
    assert "sims.csv" in rejects["message"][0]


def test_optional_key_parts_may_be_empty(tmp_path: Path) -> None:
    """A part of key_optional that has no value is an empty part of the key, not a fault."""
    (tmp_path / "sims.csv").write_text("sid,iccid\nHS1,8900001\nHS2,8900002\n", encoding="utf-8")
    usage, _ = mediate(RAW, with_lists(parse_mapping(MAPPING), tmp_path))
    assert ["HS1|2026-10-01T00:00:00Z|DE", "HS2|2026-10-01T00:00:00Z|"] == usage["record_key"].to_list()


def test_empty_list_knows_no_card(tmp_path: Path) -> None:
    """With a list of headers alone every card is unknown, and nothing is raised."""
    (tmp_path / "sims.csv").write_text("sid,iccid\n", encoding="utf-8")
    usage, rejects = mediate(RAW, with_lists(parse_mapping(MAPPING), tmp_path))
    assert (0, {"unknown_card"}) == (usage.height, set(rejects["reason"]))


def test_lists_are_read_once(tmp_path: Path) -> None:
    """A mapping that has its lists needs the file no more, and one without lookups never does."""
    (tmp_path / "sims.csv").write_text("sid,iccid\nHS1,8900001\n", encoding="utf-8")
    mapping = with_lists(parse_mapping(MAPPING), tmp_path)
    assert mapping is with_lists(mapping, tmp_path / "elsewhere")
    plain = load_mapping("plain")
    assert plain is with_lists(plain, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found the columns "),
        (b"sid,card\nHS1,8900001\n", "found the columns sid, card"),
        (b"sid,iccid\nHS1,8900001\nHS1,8900002\n", "sims.csv:3: sid: found 'HS1' again"),
        (b"sid,iccid\nHS1,\xff\n", "byte 14 is not UTF-8"),
    ],
)
def test_bad_list_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    """A list that cannot be used is an error that names the file and what is wrong with it."""
    (tmp_path / "sims.csv").write_bytes(content)
    with pytest.raises(MappingError) as raised:
        with_lists(parse_mapping(MAPPING), tmp_path)
    assert said in str(raised.value)


def test_missing_list_is_named(tmp_path: Path) -> None:
    """Without the list the error says which file is expected where, and with which columns."""
    with pytest.raises(MappingError, match=r"sims\.csv: cannot be read .* columns sid and iccid beside the feed file"):
        with_lists(parse_mapping(MAPPING), tmp_path)


def test_list_lies_beside_the_feed() -> None:
    """A mapping cannot name a list in another folder."""
    with pytest.raises(MappingError, match="expected a file name without a folder"):
        parse_mapping(MAPPING.replace("sims.csv", "../sims.csv"))
