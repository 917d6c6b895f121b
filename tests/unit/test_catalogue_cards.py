"""Card lists: what a column may hold, and what is found where."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.catalogue import load_catalogue
from rating.catalogue.check_digits import luhn_digit
from rating.errors import CatalogueError, Finding
from schemas.cards import CARD_SCHEMA, CHANGE_SCHEMA, Catalogue

PLANS = """\
[[accounts]]
id = "acme"
[[accounts]]
id = "labs"
[[plans]]
id = "single"
currency = "EUR"
versions = [{ version = 1, effective = 2026-01-01, rates = [] }]
[[plans]]
id = "tier-a"
currency = "EUR"
type = "same_tier"
versions = [{ version = 1, effective = 2026-01-01, rates = [] }]
[[plans]]
id = "tier-b"
currency = "EUR"
type = "same_tier"
versions = [{ version = 1, effective = 2026-01-01, rates = [] }]
[[pools]]
id = "same"
account = "acme"
kind = "same_tier"
[[pools]]
id = "mixed"
account = "acme"
kind = "dynamic"
"""


def iccid(number: int) -> str:
    """A 19-digit ICCID that checks."""
    body = f"8988228{number:011d}"
    return body + luhn_digit(body)


EID = "890490320000000000000000000001"
EID += f"{98 - int(EID) * 100 % 97:02d}"


def load(folder: Path, cards: str | bytes, known: Catalogue | None = None) -> Catalogue:
    """Load PLANS with a CSV list of cards."""
    (folder / "plans.toml").write_text(PLANS, encoding="utf-8")
    (folder / "cards.csv").write_bytes(cards if isinstance(cards, bytes) else cards.encode())
    return load_catalogue([folder / "plans.toml", folder / "cards.csv"], known)


def found(folder: Path, cards: str | bytes, known: Catalogue | None = None) -> list[Finding]:
    """The findings that loading must end in."""
    with pytest.raises(CatalogueError) as caught:
        load(folder, cards, known)
    assert {str(folder / "cards.csv")} == {finding.file for finding in caught.value.findings}
    return caught.value.findings


def test_every_column(tmp_path: Path) -> None:
    """Each column of the schema is read into its type, and an empty cell is null."""
    header = [name for name in CARD_SCHEMA if name != "custom"]
    values = {
        "iccid": iccid(1),
        "imsi": "901405106700001",
        "msisdn": "8822850670001",
        "eid": EID,
        "imei": "359015475190501",
        "carrier": "north",
        "account": "acme",
        "plan": "tier-a",
        "plan_from": "2026-02-01",
        "pool": "same",
        "pool_from": "2026-02-03",
        "pool_until": "2026-12-31",
        "device": "d-1",
        "status": "suspended",
        "status_reason": "over_quota",
        "activated_on": "2026-02-02",
        "test_from": "2025-12-01",
        "term_months": "12",
        "tags": " a ; b;",
    }
    csv = ",".join(header) + "\n" + ",".join(values[name] for name in header) + "\n"
    csv += f"{iccid(2)},,,,,,acme" + "," * (len(header) - 7) + "\n"
    full, empty = load(tmp_path, csv).cards.to_dicts()
    dates = {
        name: dt.date.fromisoformat(values[name])
        for name in ("plan_from", "pool_from", "pool_until", "activated_on", "test_from")
    }
    told = {"from": None, "given": ",".join(header)}
    assert {**values, **dates, "term_months": 12, "tags": ["a", "b"], "custom": None} | told == full
    assert dict.fromkeys(CARD_SCHEMA) | {"iccid": iccid(2), "account": "acme"} | told == empty


def test_the_cards_have_the_schema(tmp_path: Path) -> None:
    """Types and order of the columns are those of the contract, whatever the file has."""
    assert pl.Schema(CHANGE_SCHEMA) == load(tmp_path, f"account,ICCID\nacme,{iccid(1)}\n").cards.schema
    assert pl.Schema(CHANGE_SCHEMA) == load_catalogue([tmp_path / "plans.toml"]).cards.schema


def test_custom_columns(tmp_path: Path) -> None:
    """A header that ends in "custom", in any case, fills a custom field; quotes, commas and line ends come through."""
    csv = (
        "iccid,account,Marketplace custom,SITE_Custom,floorCUSTOM\n"
        f'{iccid(1)},acme,"say ""hi"", A\\B","two\nlines",\n'
        f"{iccid(2)},acme,,,\n"
    )
    first, second = load(tmp_path, csv).cards["custom"]
    assert {"Marketplace": 'say "hi", A\\B', "SITE": "two\nlines"} == json.loads(first)
    assert second is None


def test_custom_as_json(tmp_path: Path) -> None:
    """A column named custom holds JSON objects; anything else in it is a finding."""
    good = '"{""site"": ""Kiel"", ""floor"": -1}"'
    custom = load(tmp_path, f"iccid,account,custom\n{iccid(1)},acme,{good}\n").cards["custom"][0]
    assert {"site": "Kiel", "floor": -1} == json.loads(custom)
    for bad in ("[1]", "x", '"{""a"":"'):
        findings = found(tmp_path, f"iccid,account,custom\n{iccid(1)},acme,{good}\n{iccid(2)},acme,{bad}\n")
        assert [("custom", 3)] == [(finding.field, finding.line) for finding in findings]


@pytest.mark.parametrize(
    ("header", "cells", "field", "words"),
    [
        ("imsi", "90140510670001", None, ""),
        ("imsi", "9014051067000", "imsi", "14 or 15 digits"),
        ("imsi", "9014051067000012", "imsi", "14 or 15 digits"),
        ("msisdn", "8822850670001", None, ""),
        ("msisdn", "+49151123456", "msisdn", "without +"),
        ("eid", EID, None, ""),
        ("eid", EID[:-1], "eid", "32 digits"),
        ("eid", EID[:-2] + "00", "eid", "modulo 97"),
        ("imei", "3590", "imei", "14 to 16 digits"),
        ("plan", "singel", "plan", "did you mean single?"),
        ("plan,plan_from", "single,2026-2-30", "plan_from", 'found "2026-2-30"; expected a day such as'),
        ("plan,pool", "single,mixed", "plan", "a plan that pools"),
        ("pool", "mixed", "plan", "found nothing; expected a plan that pools"),
        ("plan,pool,pool_from,pool_until", "tier-a,mixed,2026-02-01,2026-01-31", "pool_until", "not before pool_from"),
        ("plan,pool", "tier-a,mixd", "pool", "did you mean mixed?"),
        ("status", "actvated", "status", "did you mean activated?"),
        ("status", "test_ready", None, ""),
        ("status,status_reason", "suspended,hard_cut", None, ""),
        ("status,status_reason", "suspended,hardcut", "status_reason", "did you mean hard_cut?"),
        ("status,status_reason", "activated,manual", "status_reason", "a reason with the status suspended only"),
        ("term_months", "0", "term_months", "1 or more"),
        ("term_months", "1.5", "term_months", 'found "1.5"; expected a whole number'),
    ],
)
def test_cells(tmp_path: Path, header: str, cells: str, field: str | None, words: str) -> None:
    """Each column takes what it may hold, and a finding names line, column, cell and what would be right."""
    csv = f"iccid,account,{header}\n\n{iccid(1)},acme,{cells}\n"  # the empty line is no card, but it is a line
    if field is None:
        assert 1 == len(load(tmp_path, csv).cards)
        return
    findings = found(tmp_path, csv)
    assert [(field, 3)] == [(finding.field, finding.line) for finding in findings]
    assert words in str(findings[0])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (iccid(1)[:-1] + str((int(iccid(1)[-1]) + 1) % 10), "(Luhn)"),
        ("89882280667000001", "18 to 22 digits"),
        ("89882280667000001234567", "18 to 22 digits"),
        ("898604b2202110003456", "letters A to E"),
        ("8986G4B2202110003456", "letters A to E"),
        ("8.98823E+18", "a spreadsheet rounded it"),
        (iccid(1) + "F", "without the filler F"),
        ("", "found nothing"),
    ],
)
def test_iccids(tmp_path: Path, number: str, words: str) -> None:
    """A bad ICCID is found; spreadsheets and fillers, the usual reasons, are named."""
    findings = found(tmp_path, f"iccid,account\n{number},acme\n")
    assert 1 == len(findings)
    assert words in str(findings[0])


@pytest.mark.parametrize("number", ["898604B2202110003456", "898822806670000001", "8988228066700000012345"])
def test_iccids_of_other_forms(tmp_path: Path, number: str) -> None:
    """Carriers issue numbers with a letter, and of 18 to 22 characters; these have no check digit."""
    (tmp_path / "plans.toml").write_text(PLANS, encoding="utf-8")
    (tmp_path / "cards.csv").write_text(f"iccid,account\n{number},acme\n", encoding="utf-8")
    assert [number] == load_catalogue([tmp_path / "plans.toml", tmp_path / "cards.csv"]).cards["iccid"].to_list()


def test_check_digits_can_be_left_alone(tmp_path: Path) -> None:
    """An operator whose 19-digit numbers have no check digit can say so; the form is still checked."""
    (tmp_path / "plans.toml").write_text(PLANS, encoding="utf-8")
    (tmp_path / "cards.csv").write_text("iccid,account\n8988228066700000013,acme\n", encoding="utf-8")
    paths = [tmp_path / "plans.toml", tmp_path / "cards.csv"]
    assert 1 == len(load_catalogue(paths, check_digits=False).cards)
    (tmp_path / "cards.csv").write_text("iccid,account\n89882280667000001,acme\n", encoding="utf-8")
    with pytest.raises(CatalogueError, match="18 to 22 digits"):
        load_catalogue(paths, check_digits=False)


@pytest.mark.parametrize(
    ("csv", "line", "words"),
    [
        ("", 1, "an empty file"),
        ("iccid,acount\n", 1, "did you mean account?"),
        ("iccid\n", 1, "no column account"),
        ("iccid,account,iccid\n", 1, "each column once"),
        ("iccid,account,custom,site custom\n", 1, "both kinds of custom columns"),
        (f"iccid,account\n{iccid(1)},acme,5\n", 2, "3 columns"),
        (f'iccid,account\n{iccid(1)},"ac\n\nme",5\n', 2, "3 columns"),
        (f'iccid,account\n{iccid(1)},acme\n{iccid(2)},"acme\n', 3, "CSV"),
        (b"iccid,account\n\xff,acme\n", 2, "not UTF-8"),
    ],
)
def test_files_that_are_no_card_list(tmp_path: Path, csv: str | bytes, line: int, words: str) -> None:
    """A wrong header, ragged rows, open quotes and wrong encodings are found with their line."""
    findings = [finding for finding in found(tmp_path, csv) if words in str(finding)]
    assert [line] == [finding.line for finding in findings]


def test_lines_are_right_after_quoted_line_ends(tmp_path: Path) -> None:
    """A cell of two lines moves the lines of all rows after it."""
    csv = f'iccid,account,site custom\n{iccid(1)},acme,"a\nb"\n{iccid(2)},nobody,c\n'
    assert [4] == [finding.line for finding in found(tmp_path, csv)]


def test_semicolons_tabs_and_byte_order_marks(tmp_path: Path) -> None:
    """What spreadsheets save as CSV elsewhere is read too."""
    for delimiter in (";", "\t"):
        csv = f"\ufefficcid{delimiter}account\r\n{iccid(1)}{delimiter}acme\r\n"
        assert [iccid(1)] == load(tmp_path, csv).cards["iccid"].to_list()


def test_gzip(tmp_path: Path) -> None:
    """A packed list is unpacked."""
    (tmp_path / "plans.toml").write_text(PLANS, encoding="utf-8")
    (tmp_path / "cards.csv.gz").write_bytes(gzip.compress(f"iccid,account\n{iccid(1)},acme\n".encode(), mtime=0))
    assert 1 == len(load_catalogue([tmp_path / "plans.toml", tmp_path / "cards.csv.gz"]).cards)


def test_duplicates_in_the_set(tmp_path: Path) -> None:
    """A number on two cards is an error at the second card, and the error names the first one."""
    csv = (
        "iccid,account,imsi,msisdn\n"
        f"{iccid(1)},acme,901405106700001,88228001\n"
        f"{iccid(1)},acme,901405106700002,88228002\n"
        f"{iccid(3)},acme,901405106700001,88228002\n"
    )
    first = f"it is at {tmp_path / 'cards.csv'}:2"
    assert [(3, "iccid", True), (4, "imsi", True), (4, "msisdn", False)] == [
        (finding.line, finding.field, first in finding.expected) for finding in found(tmp_path, csv)
    ]


def test_duplicates_against_what_is_in_force(tmp_path: Path) -> None:
    """A card in force may come again; its numbers on another card are found, unless it gives them up in the set."""
    known = load(tmp_path, f"iccid,account,imsi\n{iccid(1)},acme,901405106700001\n")
    assert 1 == len(load(tmp_path, f"iccid,account,imsi\n{iccid(1)},labs,901405106700001\n", known).cards)
    taken = f"iccid,account,imsi\n{iccid(2)},acme,901405106700001\n"
    assert [f"each once: card {iccid(1)} in force has it"] == [f.expected for f in found(tmp_path, taken, known)]
    given_up = taken + f"{iccid(1)},acme,901405106700009\n"
    assert 2 == len(load(tmp_path, given_up, known).cards)


def test_a_same_tier_pool_has_one_tier(tmp_path: Path) -> None:
    """The first member sets the tier of the pool, or one in force does; a dynamic pool takes any plan that pools."""
    header = "iccid,account,plan,pool\n"
    csv = header + f"{iccid(1)},acme,tier-a,same\n{iccid(2)},acme,tier-b,same\n{iccid(3)},acme,tier-b,mixed\n"
    assert [(3, "the one tier of pool same: tier-a, not tier-b")] == [
        (finding.line, finding.expected) for finding in found(tmp_path, csv)
    ]
    known = load(tmp_path, header + f"{iccid(9)},acme,tier-b,same\n")
    assert [2] == [finding.line for finding in found(tmp_path, header + f"{iccid(1)},acme,tier-a,same\n", known)]


def test_many_bad_cards_are_told_by_number(tmp_path: Path) -> None:
    """Past a thousand findings of one kind, the rest is a number."""
    csv = "iccid,account\n" + "".join(f"{iccid(n)},nobody\n" for n in range(1500))
    findings = found(tmp_path, csv)
    assert 1001 == len(findings)
    assert ("500 more cards like this, from here on", 1002) == (findings[-1].found, findings[-1].line)
