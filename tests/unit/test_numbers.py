"""Numbers as feeds write them, through the driver: separators, bases, units in cells, clocks, sums (F2)."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feeds.mappings import parse_mapping
from rating.errors import MappingError
from rating.mediation.numbers import clock_seconds, plain_decimals, two_readings, unswapped
from rating.mediation.quantity import scale
from schemas.mapping import Numbers
from tests.support.ingested import CARD, Ingested


def sheet(numbers: str, field: str, delimiter: str = ";", service: str = "data") -> str:
    """A mapping of a CSV with id, card, amount and time."""
    return f"""
name = "sheet"
[format]
type = "csv"
delimiter = "{delimiter}"
{numbers}
[[records]]
service = "{service}"
key = ["id"]
[records.fields]
iccid = {{ from = "card" }}
quantity = {{ from = "amount", {field} }}
used_at = {{ from = "at", time = "%d.%m.%Y %H:%M:%S" }}
"""


def lines(*amounts: str) -> str:
    """A CSV with one record for each amount."""
    rows = [f"{number};{CARD};{amount};06.10.2026 10:00:00" for number, amount in enumerate(amounts, 1)]
    return "\n".join(["id;card;amount;at", *rows, ""])


def test_a_german_spreadsheet(tmp_path: Path) -> None:
    """Decimal commas, thousands by point or space, and a unit in the cell are read as they are meant."""
    weir = Ingested(tmp_path)
    mapping = sheet('[numbers]\ndecimal = ","\nthousands = [".", " "]', 'unit = "MB", unit_from = "@cell", base = 1000')
    weir.ingest(weir.mapping(mapping), lines("1,5", "1.234,5", "1.234", "1 234", "12,5 MB", "7 KB", "1\u00a0234,5"))
    expected = [1_500_000, 1_234_500_000, 1_234_000_000, 1_234_000_000, 12_500_000, 7000, 1_234_500_000]
    assert dict(zip("1234567", expected, strict=True)) == weir.used()


def test_a_number_with_two_readings_is_refused(tmp_path: Path) -> None:
    """Without a word in the mapping, 1.234 of a CSV may be a thousandth of what is meant: no guess is made."""
    weir = Ingested(tmp_path)
    weir.ingest(
        weir.mapping(sheet("", 'unit = "MB", base = 1000')), lines("1,5", "1.234,5", "1.234", "1 234", "12,5 MB")
    )
    assert {} == weir.used()
    assert [(str(number), "bad_value", "amount") for number in range(1, 6)] == weir.refused()
    assert "[numbers]" in weir.rows("rejected").sort("source_row")["message"][2]


def test_a_mapping_that_says_how_numbers_are_written_reads_them(tmp_path: Path) -> None:
    """The same text is another quantity under another mapping, and is never read across it."""
    weir = Ingested(tmp_path)
    weir.ingest(
        weir.mapping(sheet('[numbers]\ndecimal = "."', 'unit = "MB", base = 1000')),
        lines("1.234", "1.5", "0012", "1,234"),
    )
    assert {"1": 1_234_000, "2": 1_500_000, "3": 12_000_000} == weir.used()
    assert [("4", "bad_value", "amount")] == weir.refused()


def test_hexadecimal_volumes(tmp_path: Path) -> None:
    """A dump of hexadecimal digits is read by radix 16, and refused without it, also if it has decimal digits only."""
    weir = Ingested(tmp_path)
    dump = lines("000005dc", "0x1B58", "00002710", "000004e2", "000000000000000000000ff", "00000000")
    weir.ingest(weir.mapping(sheet("[numbers]\nradix = 16", 'unit = "B"')), dump)
    assert {"1": 1500, "2": 7000, "3": 10_000, "4": 1250, "5": 255, "6": 0} == weir.used()
    plain = Ingested(tmp_path_of(tmp_path))
    plain.ingest(plain.mapping(sheet("", 'unit = "B"')), dump)
    assert {"6": 0} == plain.used()


def tmp_path_of(folder: Path) -> Path:
    """A second folder beside the first of a test."""
    other = folder / "other"
    other.mkdir()
    return other


@pytest.mark.parametrize("said", ["", '[numbers]\ndecimal = "."'])
def test_padded_digits_with_an_exponent_are_no_number(tmp_path: Path, said: str) -> None:
    """000004e2 is 1250 in hexadecimal, and 400 for nobody."""
    weir = Ingested(tmp_path)
    weir.ingest(weir.mapping(sheet(said, 'unit = "B"')), lines("000004e2"))
    assert [("1", "bad_value", "amount")] == weir.refused()


def test_durations(tmp_path: Path) -> None:
    """A call's length is a clock, or minutes, as the mapping says; half seconds round up."""
    weir = Ingested(tmp_path)
    weir.ingest(
        weir.mapping(sheet("", 'unit = "hh:mm:ss"', service="voice")),
        lines("00:05:30", "000:00:28", "01:00:00,5", "5:30", "00:61:00"),
    )
    assert {"1": 330, "2": 28, "3": 3601} == weir.used()
    assert [("4", "bad_value", "amount"), ("5", "bad_value", "amount")] == weir.refused()


def test_two_fields_that_make_one_quantity(tmp_path: Path) -> None:
    """Octets and gigawords are one number; gigawords without octets are a missing number, not none."""
    weir = Ingested(tmp_path)
    mapping = sheet("", 'plus = { from = "giga", times = 4294967296 }').replace("%d.%m.%Y %H:%M:%S", "iso")
    rows = ["5;1", "7;", "7;0", ";2"]
    text = "\n".join(["id;card;at;amount;giga", *(f"{n};{CARD};2026-10-06;{row}" for n, row in enumerate(rows, 1)), ""])
    weir.ingest(weir.mapping(mapping), text)
    assert {"1": 4_294_967_301, "2": 7, "3": 7} == weir.used()
    assert [("4", "missing", "amount")] == weir.refused()


def test_a_total_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    """A total that up and down contradict is refused: two plans would bill two quantities."""
    weir = Ingested(tmp_path)
    text = f"""record_key,service,iccid,volume_up_bytes,volume_down_bytes,quantity,used_at
a,data,{CARD},4,5,10,2026-10-05
b,data,{CARD},4,5,9,2026-10-05
c,data,{CARD},11,,10,2026-10-05
d,data,{CARD},,4,10,2026-10-05
"""
    weir.ingest("plain", text)
    assert {"b": 9, "d": 10} == weir.used()
    assert [("a", "bad_value", "quantity"), ("c", "bad_value", "quantity")] == weir.refused()


def test_a_total_that_is_rounded_is_no_contradiction(tmp_path: Path) -> None:
    """Parts and total of two decimals may differ by their rounding; the parts then give way to the total."""
    weir = Ingested(tmp_path)
    mapping = sheet('[numbers]\ndecimal = "."', 'unit = "MB", base = 1000').replace("%d.%m.%Y %H:%M:%S", "iso")
    mapping += 'volume_up_bytes = { from = "up", unit = "MB", base = 1000 }\n'
    mapping += 'volume_down_bytes = { from = "down", unit = "MB", base = 1000 }\n'
    text = f"id;card;at;amount;up;down\n1;{CARD};2026-10-06;3.58;1.23;2.34\n2;{CARD};2026-10-06;3.60;1.23;2.34\n"
    weir.ingest(weir.mapping(mapping), text)
    (row,) = weir.rows("rated").select("quantity_raw", "volume_up_bytes", "volume_down_bytes").rows()
    assert (3_580_000, 1_230_000, 2_350_000) == row
    assert [("2", "bad_value", "amount")] == weir.refused()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('[numbers]\ndecimal = ","\nthousands = ","', "two different characters"),
        ("[numbers]\nradix = 16\nthousands = '.'", "without any"),
        ("[numbers]\nradix = 8", "numbers.radix"),
        ("[numbers]\nradixx = 8", "unknown key"),
    ],
)
def test_numbers_of_a_mapping_are_checked(said: str, expected: str) -> None:
    """What cannot be a way of writing numbers is refused when the mapping is loaded."""
    with pytest.raises(MappingError, match=expected):
        parse_mapping(sheet(said, 'unit = "B"'))


@given(
    nanos=st.integers(0, 10**15),
    places=st.integers(0, 9),
    decimal=st.sampled_from([".", ","]),
    thousands=st.sampled_from(["", ".", ",", " ", "'"]),
)
def test_what_is_written_is_read(nanos: int, places: int, decimal: str, thousands: str) -> None:
    """A number written with any separators is read as it was, and one that two ways could mean is never guessed."""
    if decimal == thousands:
        return
    number = Decimal(nanos).scaleb(-places)
    text = f"{number:,f}".replace(",", "T").replace(".", decimal).replace("T", thousands)
    units = int(number.to_integral_value(ROUND_HALF_UP))
    plain = plain_decimals(pl.Series([text]), Numbers(decimal=decimal, thousands=thousands))  # type: ignore[arg-type]
    assert [units if units <= 1 << 45 else None] == scale(plain, 1).units.to_list()
    guessed = None if two_readings(pl.Series([text]), True)[0] else scale(pl.Series([text]), 1).units[0]
    assert guessed in (None, units)


@given(seconds=st.integers(0, 10**7))
def test_clocks_are_read_back(seconds: int) -> None:
    """Any length is read from hours, minutes and seconds, and from minutes and seconds."""
    minutes, rest = divmod(seconds, 60)
    assert [seconds] == clock_seconds(pl.Series([f"{minutes:02}:{rest:02}"]), "mm:ss").to_list()
    long = f"{minutes // 60:03}:{minutes % 60:02}:{rest:02}"
    assert [seconds] == clock_seconds(pl.Series([long]), "hh:mm:ss").to_list()


@given(digits=st.text("0123456789", min_size=1, max_size=20))
def test_swapped_digits_are_read_back(digits: str) -> None:
    """Any number that a network writes in swapped pairs, with a filler if its length is odd, is read as it was."""
    filled = digits + "F" * (len(digits) % 2)
    swapped = "".join(filled[at + 1] + filled[at] for at in range(0, len(filled), 2))
    assert [digits, digits] == unswapped(pl.Series([swapped, swapped.lower()]), network=False).to_list()
    assert [None] == unswapped(pl.Series([swapped + "x"]), network=False).to_list()


@pytest.mark.parametrize(
    ("swapped", "plmn"), [("62F210", "26201"), ("130062", "310260"), ("13F062", "31026"), ("62", None)]
)
def test_swapped_networks(swapped: str, plmn: str | None) -> None:
    """The third digit of an MNC is between MCC and MNC, or a filler."""
    assert [plmn] == unswapped(pl.Series([swapped]), network=True).to_list()


def test_a_card_in_swapped_digits(tmp_path: Path) -> None:
    """A dump of a decoder names the card as the network does."""
    weir = Ingested(tmp_path)
    mapping = sheet("[numbers]\nradix = 16", 'unit = "B"').replace(
        'iccid = { from = "card" }', 'imsi = { from = "card", swapped = true }'
    )
    text = "id;card;amount;at\n1;091415000000 1F;ff;06.10.2026 10:00:00\n2;09415001000000F1;ff;06.10.2026 10:00:00\n"
    weir.ingest(weir.mapping(mapping), text)
    assert {"2": 255} == weir.used()
    assert [("1", "bad_value", "card")] == weir.refused()
