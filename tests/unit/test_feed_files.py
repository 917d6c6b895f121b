"""Files as carriers send them, through the driver: titles, sep=, UTF-16, ZIP, line breaks, and what is no feed (F2)."""

from __future__ import annotations

import codecs
import datetime as dt
import gzip
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.ingest.rejected import export, replay
from pipeline.catalogue import load_catalogue
from pipeline.embedded.driver import Embedded
from pipeline.feeds.decode import open_source
from pipeline.feeds.mappings import load_mapping, parse_mapping
from rating.errors import MappingError, SourceError
from tests.support.ingested import CARD, Ingested

MAPPING = """
name = "sheet"
[format]
type = "csv"
delimiter = ";"
{more}
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = {{ from = "iccid" }}
quantity = {{ from = "bytes" }}
used_at = {{ from = "at" }}
apn = {{ from = "note", optional = true }}
"""
LINES = f"id;iccid;bytes;at;note\nä1;{CARD};5;2026-10-01;x\nb2;{CARD};7;2026-10-01;y\n"


def mapping(more: str = "") -> str:
    """A mapping of a CSV with semicolons."""
    return MAPPING.format(more=more)


def zipped(members: dict[str, str]) -> bytes:
    """A ZIP archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "more"),
    [
        (LINES.encode(), ""),
        (b"sep=;\r\n" + LINES.encode(), ""),
        (codecs.BOM_UTF8 + b"sep=;\n" + LINES.encode(), ""),
        (b"Usage of October\n\n" + LINES.encode(), "skip_lines = 2"),
        (b"sep=;\nUsage of October\n" + LINES.encode(), "skip_lines = 1"),
        (LINES.encode("utf-16"), ""),
        (codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"), ""),
        (LINES.encode("utf-16-le"), ""),
        (zipped({"usage.csv": LINES}), ""),
        (zipped({"usage.csv": LINES, "readme.md": "read me"}), ""),
        (zipped({"__MACOSX/._usage.csv": "?", "usage.csv": LINES}), ""),
    ],
)
def test_a_file_is_read_whatever_is_around_its_lines(tmp_path: Path, content: bytes, more: str) -> None:
    """Titles, the line for a spreadsheet, UTF-16 and an archive change nothing in the records."""
    weir = Ingested(tmp_path)
    tally = weir.ingest(weir.mapping(mapping(more)), content)
    assert {"ä1": 5, "b2": 7} == weir.used()
    assert 2 == tally["records"]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"sep=,\n" + LINES.encode(), MappingError, "found sep=,; expected ';'"),
        (b"Usage of October\n" + LINES.encode(), MappingError, "line 2 has them: write skip_lines = 1"),
        (b"sep=;\nOctober\n" + LINES.encode(), MappingError, "line 3 has them: write skip_lines = 1"),
        (zipped({"a.csv": LINES, "b.csv": LINES}), SourceError, "found 2 files in the archive"),
        (zipped({"[Content_Types].xml": "", "xl/workbook.xml": ""}), SourceError, "an Excel workbook"),
        (b"PK\x03\x04 and no archive", SourceError, "cannot be read"),
        (b"%PDF-1.7\n", SourceError, "a PDF document"),
        (b"\n<!DOCTYPE html><html>", SourceError, "an HTML page"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", SourceError, "an Excel workbook"),
        (b"BZh91AY&SY", SourceError, "bzip2"),
        (b"PAR1....", SourceError, "a Parquet file"),
    ],
)
def test_what_is_no_feed_is_called_what_it_is(
    tmp_path: Path, content: bytes, error: type[Exception], words: str
) -> None:
    """A file that cannot be read says what it is, or what to write into the mapping."""
    weir = Ingested(tmp_path)
    with pytest.raises(error) as raised:
        weir.ingest(weir.mapping(mapping()), content)
    assert words in str(raised.value)


def test_utf_16_is_not_read_as_another_encoding(tmp_path: Path) -> None:
    """A mapping that names another encoding than the file has is refused."""
    weir = Ingested(tmp_path)
    with pytest.raises(MappingError, match="found text in UTF-16; expected cp1252"):
        weir.ingest(weir.mapping(mapping('encoding = "cp1252"')), LINES.encode("utf-16"))


def test_a_line_break_inside_quotes(tmp_path: Path) -> None:
    """A quoted value may go over lines; what is no record stays a reject of its own lines."""
    weir = Ingested(tmp_path)
    text = (
        "id;iccid;bytes;at;note\n"
        f'"k1\nb";{CARD};1;2026-10-01;x\n'
        f'k2;{CARD};2;2026-10-01;"two\r\n\nlines ""quoted"""\n'
        f"k3;{CARD};3;2026-10-01;x\n"
        f'"k4;{CARD};4;2026-10-01;x\n'
        f"k5;{CARD};5;2026-10-01;x\n"
        f'k6";{CARD};6;2026-10-01;x\n'
        f'k7;{CARD};x;2026-10-01;"a\nb"\n'
    )
    weir.ingest(weir.mapping(mapping()), text)
    assert {"k1\nb": 1, "k2": 2, "k3": 3, "k5": 5} == weir.used()
    rejected = weir.rows("rejected").sort("source_row")
    assert [(8, "malformed"), (10, "malformed"), (11, "bad_value")] == rejected.select("source_row", "reason").rows()
    assert f'k7;{CARD};x;2026-10-01;"a\nb"'.encode() == rejected["raw"][2]


@given(
    values=st.lists(st.text('ab"\n;', min_size=1, max_size=6), min_size=1, max_size=30).filter(
        lambda values: "\n;;;;\n" not in values  # that would be a record by itself
    ),
    chunk_bytes=st.integers(40, 400),
)
def test_any_quoted_values_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], chunk_bytes: int
) -> None:
    """Values with line breaks, quotes and delimiters come back as they were, wherever the file is cut."""
    text = "id;iccid;bytes;at;note\n"
    for number, value in enumerate(values):
        quoted = value.replace('"', '""')
        text += f'k{number};{CARD};1;2026-10-01;"{quoted}"\n'
    path = tmp_path_factory.mktemp("quoted") / "usage.csv"
    path.write_bytes(text.encode())
    read: list[str] = []
    for chunk in open_source(path, parse_mapping(mapping()), chunk_bytes=max(chunk_bytes, len(text) // 3)):
        assert not len(chunk.rejects)
        read += chunk.raw["note"].to_list()
    assert values == read


@pytest.mark.parametrize(
    ("footer", "words"),
    [
        ("Summe;2;12;;", None),
        ("Summe;2", None),
        ("Summe;;12", None),
        ("Summe;3;12;;", "found 2 records; expected 3"),
        ("Summe;2;13;;", "found 12 units of bytes in all; expected 13"),
        ("Summe;2;1;;", "found 12 units of bytes in all; expected 1,"),
        ("Summe;2;viel;;", "found 'viel' as total of bytes"),
        ("", "is the file cut off?"),
    ],
)
def test_a_footer_is_checked_against_the_file(tmp_path: Path, footer: str, words: str | None) -> None:
    """The totals at the end are no record. If they differ from the file, nothing of it is rated."""
    weir = Ingested(tmp_path)
    feed = weir.mapping(mapping("footer = '^Summe;(?P<records>[0-9]+)?(?:;(?P<quantity>[^;]+))?'"))
    if words is None:
        tally = weir.ingest(feed, LINES + footer + "\n")
        assert (2, {"ä1": 5, "b2": 7}) == (tally["records"], weir.used())
        return
    with pytest.raises(SourceError) as raised:
        weir.ingest(feed, LINES + footer + "\n")
    assert words in str(raised.value)
    assert {} == weir.used()


def test_a_bad_value_does_not_make_the_footer_wrong(tmp_path: Path) -> None:
    """One record that cannot be read is rejected; the others, and the footer, stand."""
    weir = Ingested(tmp_path)
    text = LINES + f"c3;{CARD};x;2026-10-01;z\nSumme;20\n"
    weir.ingest(weir.mapping(mapping("footer = '^Summe;(?P<quantity>[0-9]+)'")), text)
    assert {"ä1": 5, "b2": 7} == weir.used()
    assert [("c3", "bad_value", "bytes")] == weir.refused()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("footer = '('", "expected a regular expression"),
        ("footer = '.*'", "which an empty line matches"),
        ("footer = '^T;(?P<bytes>.+)'", "found the group 'bytes'; expected one of records, quantity"),
        ("skip_lines = -1", "expected 0 to 100"),
    ],
)
def test_what_is_around_the_lines_is_checked(said: str, words: str) -> None:
    """A footer or a number of lines that cannot be is refused when the mapping is loaded."""
    with pytest.raises(MappingError) as raised:
        parse_mapping(mapping(said))
    assert words in str(raised.value)


def test_a_record_of_several_lines_is_replayed(tmp_path: Path) -> None:
    """F5: a rejected record keeps all its lines, and its export can be rated once its card is known."""
    weir = Ingested(tmp_path)
    unknown = CARD[:-2] + "34"
    feed = weir.mapping(mapping("skip_lines = 1"))
    weir.ingest(feed, f'October\nid;iccid;bytes;at;note\n"k\n1";{unknown};5;2026-10-01;x\n')
    exported = tmp_path / "fix.ndjson"
    with exported.open("wb") as out:
        assert 1 == export(weir.rows("rejected"), out, [load_mapping(feed)]).records
    with Embedded.open(tmp_path / "data", write=True) as driver:
        (tmp_path / "card.csv").write_text(f"iccid,account,plan\n{unknown},acme,payg\n")
        change = load_catalogue([tmp_path / "card.csv"], known=driver.engine.state.catalogue, check_digits=False)
        driver.apply(change)
        replay(driver, exported, [load_mapping(feed)], dt.datetime(2026, 11, 1, tzinfo=dt.UTC))
    assert {"k\n1": 5} == weir.used()


def test_text_in_utf_16_that_is_packed(tmp_path: Path) -> None:
    """What a file is packed in says nothing of its encoding."""
    weir = Ingested(tmp_path)
    weir.ingest(weir.mapping(mapping()), gzip.compress(LINES.encode("utf-16")))
    assert {"ä1": 5, "b2": 7} == weir.used()
