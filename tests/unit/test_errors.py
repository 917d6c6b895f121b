"""Errors carry what is wrong as data, and their text is made of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.catalogue import load_catalogue
from rating.calendars.bands import check_band
from rating.catalogue.voucher import parse_voucher
from rating.errors import CatalogueError, Finding, PlanError, RuleError
from rating.tariff import PriceBook, PriceSpec
from schemas.plans import Band, Price, Tier

WORDS = "7; expected 8, expected 9: found 1"  # words of the text of an error, in what somebody wrote


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding((), "1", "2"), "found 1; expected 2"),
        (Finding(("tiers", 0, "to"), "1", "2"), "tiers[0].to: found 1; expected 2"),
        (Finding(("threshold", 1), "1", "2", "rule cap"), "rule cap, threshold[1]: found 1; expected 2"),
        (Finding((), "1", "2", "rule cap"), "rule cap: found 1; expected 2"),
        (Finding(("line",), "1", "2", file="a.toml", line=3), "a.toml:3: line: found 1; expected 2"),
        (Finding(("id",), "1", "2", "card 8", "a.csv", 3), "a.csv:3: card 8, id: found 1; expected 2"),
        (Finding(("id",), "1", "2", file="a.toml"), "a.toml: id: found 1; expected 2"),
    ],
)
def test_the_text_of_a_finding(finding: Finding, text: str) -> None:
    """The text has the place, the subject and the field if they are known, then what was found and is expected."""
    assert text == str(finding)
    assert [text, text] == [str(kind(finding)) for kind in (PlanError, RuleError)]


def test_the_path_of_a_nested_field() -> None:
    """An error about an amount, raised for a tier of a price, has the path from the price to the amount."""
    price = Price(model="graduated", tiers=(Tier(to=5), Tier(price=WORDS)))
    with pytest.raises(PlanError) as caught:
        PriceBook.compile([PriceSpec(price)])
    finding = caught.value.finding
    assert (("tiers", 1, "price"), repr(WORDS)) == (finding.path, finding.found)


def test_an_error_crosses_processes() -> None:
    """A pickled error has the same finding and text."""
    error = RuleError(Finding(("rule",), "1", "2", "rule cap", "a.ndjson", 3))
    copy = pickle.loads(pickle.dumps(error))
    assert (error.finding, str(error)) == (copy.finding, str(copy))


def test_words_of_the_text_in_a_value() -> None:
    """A value that looks like the text of an error is shown whole."""
    with pytest.raises(PlanError) as band:
        check_band(3, Band(name="day", start=WORDS))
    assert (("bands", 3, "start"), repr(WORDS)) == (band.value.finding.path, band.value.finding.found)
    key = f"C_single_1M_v1_{WORDS}"
    with pytest.raises(PlanError) as voucher:
        parse_voucher(key)
    assert (("Tier",), repr(WORDS)) == (voucher.value.finding.path, voucher.value.finding.found)


def test_such_a_value_in_a_catalogue(tmp_path: Path) -> None:
    """The finding of a catalogue has the line of the field, and the value as it was written."""
    file = tmp_path / "plans.toml"
    file.write_text(
        f"""\
[[plans]]
id = "p"
currency = "EUR"
voucher = "C_single_1M_v1_{WORDS}"
[[plans.versions]]
version = 1
effective = 2026-01-01
rates = []
[[plans.versions.bands]]
name = "day"
[[plans.versions.bands]]
name = "night"
start = "{WORDS}"
"""
    )
    with pytest.raises(CatalogueError) as caught:
        load_catalogue([file])
    assert [
        (4, "plans.p.voucher", f'"C_single_1M_v1_{WORDS}": Tier {WORDS!r}', "letters, digits, '.', '_' and '-'"),
        (13, "plans.p.versions[0].bands[1].start", repr(WORDS), 'a time from "00:00" to "24:00"'),
    ] == [(found.line, found.field, found.found, found.expected) for found in caught.value.findings]
