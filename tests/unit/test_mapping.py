"""Mapping files: what is refused, and how the message names it (F2)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.feeds.mappings import load_mapping, parse_mapping, ready_mappings
from rating.errors import MappingError

GOOD = """
name = "a"
[format]
type = "csv"
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = { from = "iccid" }
quantity = { from = "bytes" }
used_at = { from = "at" }
"""


def test_every_ready_mapping_loads_and_is_found_by_name() -> None:
    """A ready mapping's name is the name of its file."""
    names = [mapping.name for mapping in ready_mappings()]
    assert "plain" in names
    assert names == [load_mapping(name).name for name in names]


def test_the_mappings_of_the_documents_load() -> None:
    """Each whole mapping in docs/feeds.md is one that can be loaded as it stands."""
    text = (Path(__file__).parents[2] / "docs" / "feeds.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    names = [parse_mapping(block).name for block in blocks]
    assert ["my-feed", "tabelle", "radius", "hexdump", "lake"] == names


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('type = "csv"', 'type = "xml"', "format.type: found 'xml'"),
        (
            'type = "csv"',
            'type = "csv"\ndelimiter = "ab"',
            "format.delimiter: found 'ab'; expected one ASCII character",
        ),
        ('type = "csv"', 'type = "csv"\nheader = false', "format.columns: found none"),
        ('type = "csv"', 'type = "csv"\nexplode = "x"', "format.explode: found 'x'"),
        ('from = "bytes"', 'frm = "bytes"', "records[0].fields.quantity.frm: found an unknown key"),
        ('from = "bytes"', 'from = "bytes", join = ["a"]', "found from and join; expected exactly one"),
        ('from = "bytes"', 'from = "bytes", unit = "MiB"', "unit: found 'MiB'; expected one of B, KB"),
        ('from = "at"', 'from = "at", time = "now"', "time: found 'now'"),
        ('from = "at"', 'from = "at", zone = "Mars/Base"', "zone: found 'Mars/Base'; expected an IANA time zone"),
        ('from = "iccid"', 'from = "iccid", pattern = "("', "pattern: found '('"),
        ('from = "iccid"', 'from = "iccid", unit = "MB"', "unit: found on iccid"),
        ('from = "bytes"', "from = 5", "records[0].fields.quantity.from: found 5; expected"),
        ("iccid = ", "icc = ", "icc: found an unknown field"),
        ('iccid = { from = "iccid" }', "", "found none of iccid, imsi, msisdn"),
        ('used_at = { from = "at" }', "", "used_at: found none"),
        ('quantity = { from = "bytes" }', "", "found no quantity"),
        ('service = "data"', "", "service: found none; expected a constant or fields.service"),
        ('service = "data"', 'service = "data"\nwhen = { field = "x" }', "when: found no test of 'x'"),
        ('key = ["id"]', 'key = ["@rows"]', "'@rows': found an unknown pseudo field"),
        ("[[records]]", '[volumes]\nmode = "cumulative"\n[[records]]', "session_id: found none"),
        ('name = "a"', 'name = "a b"', "name: found 'a b'"),
        ('name = "a"', "name = ", "not valid TOML"),
    ],
)
def test_a_wrong_mapping_is_refused_by_file_field_and_finding(old: str, new: str, message: str) -> None:
    """The error names the file, the field, what was found and what would be right."""
    with pytest.raises(MappingError) as caught:
        parse_mapping(GOOD.replace(old, new, 1), "my.toml")
    assert "my.toml: " in str(caught.value)
    assert message in str(caught.value)


def test_an_unknown_feed_is_refused_with_the_names_of_the_ready_ones() -> None:
    """A feed that is neither ready nor a file names what there is."""
    with pytest.raises(MappingError, match=r"'nonesuch' is not a ready mapping; expected one of .*plain"):
        load_mapping("nonesuch")


def test_a_mapping_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file and a file of noise are both refused by name."""
    with pytest.raises(MappingError, match=r"gone\.toml: cannot be read"):
        load_mapping(tmp_path / "gone.toml")
    noise = tmp_path / "noise.toml"
    noise.write_bytes(b"\xff\xfe")
    with pytest.raises(MappingError, match=r"noise\.toml: byte 0 is not UTF-8"):
        load_mapping(noise)


def test_common_fields_are_overridden_by_those_of_a_block() -> None:
    """A block's own field replaces the common one; sources list what either reads."""
    text = GOOD.replace("[[records]]", '[fields]\nrat = { from = "r" }\niccid = { from = "card" }\n[[records]]', 1)
    mapping = parse_mapping(text)
    fields = mapping.rule_fields(mapping.records[0])
    assert {"iccid": "iccid", "rat": "r"} == {name: fields[name].from_ for name in ("iccid", "rat")}
    assert {"id": True, "iccid": True, "bytes": True, "at": True, "r": True} == mapping.sources()
