"""Mediation of raw columns: units, times, keys, codes, networks, and what a record is rejected for (F1, F2, F5)."""

from __future__ import annotations

import datetime as dt
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feeds.mappings import load_mapping, parse_mapping
from rating.mediation.country import country_of
from rating.mediation.quantity import LIMIT, scale, unit_factor
from rating.mediation.records import mediate
from rating.mediation.time import parse_times
from schemas.mapping import Mapping
from schemas.usage import USAGE_SCHEMA, Direction, RecordType, Service

UTC = dt.UTC
PLAIN = load_mapping("plain")


def _raw(**columns: list[str | None]) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    series = {name: pl.Series(values, dtype=pl.String) for name, values in columns.items()}
    return pl.DataFrame(series | {"source_row": pl.Series(range(1, count + 1), dtype=pl.Int64)})


def _plain(**columns: list[str | None]) -> tuple[pl.DataFrame, pl.DataFrame]:
    count = len(next(iter(columns.values())))
    base: dict[str, list[str | None]] = {
        "record_key": [f"k{number}" for number in range(count)],
        "iccid": ["8944"] * count,
        "service": ["data"] * count,
        "quantity": ["1"] * count,
        "used_at": ["2026-10-01T00:00:00Z"] * count,
    }
    return mediate(_raw(**(base | columns)), PLAIN)


def _feed(fields: str, head: str = 'service = "data"\nkey = ["id"]') -> Mapping:
    start = f'name = "t"\n[format]\ntype = "csv"\n[[records]]\n{head}\n'
    return parse_mapping(f'{start}[records.fields]\niccid = {{ from = "card" }}\n{fields}')


_DECIMALS = st.tuples(st.integers(0, 10**6), st.text("0123456789", max_size=20)).map(lambda d: f"{d[0]}.{d[1]}")


@given(
    texts=st.lists(
        _DECIMALS | st.integers(0, 10**12).map(str) | st.sampled_from([".5", "1e3", "25e-1", "0.5E+2"]), max_size=8
    ),
    unit=st.sampled_from(["B", "KB", "MB", "GB", "TB", "s", "min", "h", "ms"]),
    base=st.sampled_from([1000, 1024]),
)
def test_decimals_are_scaled_exactly_and_rounded_half_up(texts: list[str], unit: str, base: int) -> None:
    """Every decimal times its unit equals the fraction rounded half-up, and above the limit is refused."""
    factor = unit_factor(unit, base)
    assert factor is not None
    scaled = scale(pl.Series(texts, dtype=pl.String), *factor)
    for text, units in zip(texts, scaled.units.to_list(), strict=True):
        exact = (2 * Fraction(text if not text.endswith(".") else text + "0") * Fraction(*factor) + 1) // 2
        assert (exact if exact <= LIMIT else None) == units


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "bad_value"),
        ("Infinity", "bad_value"),
        ("-0.0001", "negative"),
        ("-5", "negative"),
        ("1,5", "bad_value"),
        ("1_000", "bad_value"),
        ("٥", "bad_value"),
        ("1e999999", "bad_value"),
        ("1000000000000001", "bad_value"),
        (None, "missing"),
    ],
)
def test_a_quantity_that_is_none_is_rejected_by_field(text: str | None, reason: str) -> None:
    """NaN, infinities, negatives, other scripts and nothing each name field and reason; the neighbours stay."""
    usage, rejects = _plain(quantity=["1", text, "2"])
    assert [1, 2] == usage["quantity"].to_list()
    assert [(2, "k1", reason, "quantity")] == rejects.select("source_row", "record_key", "reason", "field").rows()


def test_minus_zero_blanks_and_exponents_are_numbers() -> None:
    """What a spreadsheet or a float printer writes is read."""
    usage, rejects = _plain(quantity=["-0.0", " 7 ", "1E3", "+4", "2.5"])
    assert [0, 7, 1000, 4, 3] == usage["quantity"].to_list()
    assert 0 == rejects.height


def test_quantity_is_the_total_else_up_and_down() -> None:
    """A mapped total counts; without one the two volumes add up, an empty one counting nothing."""
    usage, rejects = _plain(
        quantity=["3", None, None, None],
        volume_up_bytes=["1", "1", None, None],
        volume_down_bytes=["2", "2", "3", None],
    )
    assert [3, 3, 3] == usage["quantity"].to_list()
    assert ["missing"] == rejects["reason"].to_list()


def test_an_sms_counts_one_and_a_reversal_needs_no_quantity() -> None:
    """Without a quantity an SMS is one message and a reversal is zero; a voice call is refused."""
    usage, rejects = _plain(
        service=["sms", "data", "voice"],
        quantity=[None, None, None],
        record_type=[None, "reverse", None],
        corrects_key=[None, "k0", None],
    )
    assert [(int(Service.SMS), int(Direction.MO), 1, None), (int(Service.DATA), int(Direction.BOTH), 0, "k0")] == (
        usage.select("service", "direction", "quantity", "corrects_key").rows()
    )
    assert [(3, "missing")] == rejects.select("source_row", "reason").rows()


def test_a_correction_names_what_it_corrects() -> None:
    """A reversal or replacement without corrects_key is rejected as missing."""
    _, rejects = _plain(record_type=["reverse", "replace", "interim"], corrects_key=[None, "k", None])
    assert [(1, "missing", "corrects_key")] == rejects.select("source_row", "reason", "field").rows()


def test_codes_are_checked_and_fit_the_service() -> None:
    """Unknown services, record types and directions, and a direction of another service, are rejected."""
    usage, rejects = _plain(
        service=["data", "voice", "mms", "data", "data", None],
        direction=["up", "mt", None, "mo", "sideways", None],
        record_type=["start", "stop", None, None, None, None],
    )
    assert [(int(Direction.UP), int(RecordType.START)), (int(Direction.MT), int(RecordType.STOP))] == (
        usage.select("direction", "record_type").rows()
    )
    expected = [(3, "unknown_service", "service"), (4, "bad_value", "direction"), (5, "bad_value", "direction")]
    assert [*expected, (6, "missing", "service")] == rejects.select("source_row", "reason", "field").rows()


def test_a_record_bad_in_several_fields_is_rejected_once_for_the_first() -> None:
    """The rejection reports the first fault in the order key, service, fields."""
    raw = _raw(
        record_key=[None, "b"], iccid=["1", None], service=["x", "data"], quantity=["-1", "-1"], used_at=["no", "no"]
    )
    usage, rejects = mediate(raw, PLAIN)
    assert 0 == usage.height
    assert [(1, "missing", "record_key"), (2, "negative", "quantity")] == rejects.select(
        "source_row", "reason", "field"
    ).rows()


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-10-01T10:00:00Z", "UTC", dt.datetime(2026, 10, 1, 10)),
        ("2026-10-01", "UTC", dt.datetime(2026, 10, 1)),
        ("2026-10-01 10:00", "Europe/Berlin", dt.datetime(2026, 10, 1, 8)),
        ("2026-10-01T10:00:00.123456789+02:00", "UTC", dt.datetime(2026, 10, 1, 8, 0, 0, 123456)),
        ("2026-10-01T10:00:00,5-0330", "UTC", dt.datetime(2026, 10, 1, 13, 30, 0, 500000)),
        ("2026-10-01t10:00:00+02", "America/Los_Angeles", dt.datetime(2026, 10, 1, 8)),
        ("2026-10-25T02:30:00", "Europe/Berlin", dt.datetime(2026, 10, 25, 0, 30)),
        ("2028-02-29T00:00:00Z", "UTC", dt.datetime(2028, 2, 29)),
        ("2026-03-29T02:30:00", "Europe/Berlin", None),
        ("2026-02-29T00:00:00Z", "UTC", None),
        ("2026-10-01T24:00:00Z", "UTC", None),
        ("2026-13-01", "UTC", None),
        ("1969-12-31T23:59:59Z", "UTC", None),
        ("9999-01-01", "UTC", None),
        ("2026-10-01T10:00:00Z ", "UTC", None),
    ],
)
def test_iso_times_are_read_with_offset_or_zone(text: str, zone: str, expected: dt.datetime | None) -> None:
    """Offsets win over the zone; an hour that comes twice is its first, an hour that is skipped is no time."""
    others = ["2026-01-01T00:00:00Z", None, "2026-01-01T00:00:00.5Z", "noise"]
    read = parse_times(pl.Series([*others, text]), ("iso",), zone)
    assert (None if expected is None else expected.replace(tzinfo=UTC)) == read[4]
    assert [dt.datetime(2026, 1, 1, tzinfo=UTC), None] == read[:2].to_list()


@given(st.lists(st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2199, 12, 30)), max_size=10), st.data())
def test_any_iso_time_reads_back(times: list[dt.datetime], data: st.DataObject) -> None:
    """A time written in any ISO layout reads back as itself."""
    offset = dt.timezone(dt.timedelta(minutes=data.draw(st.integers(-23 * 60, 23 * 60))))
    spec = data.draw(st.sampled_from(["auto", "seconds", "milliseconds", "microseconds"]))
    aware = [time.replace(tzinfo=UTC) for time in times]
    texts = [time.astimezone(offset).isoformat(timespec=spec) for time in aware]
    expected = [dt.datetime.fromisoformat(text) for text in texts]
    assert expected == parse_times(pl.Series(texts, dtype=pl.String), ("iso",), "UTC").to_list()


def test_epochs_and_formats_are_tried_in_turn() -> None:
    """Each text is read by the first format that fits it."""
    texts = pl.Series(["1790000000", "31/10/2026 10:00:00", "1790000000.25", "noise", None])
    read = parse_times(texts, ("%d/%m/%Y %H:%M:%S", "epoch_s"), "Europe/Berlin")
    at = dt.datetime.fromtimestamp(1790000000, UTC)
    assert [
        at,
        dt.datetime(2026, 10, 31, 9, tzinfo=UTC),
        at + dt.timedelta(milliseconds=250),
        None,
        None,
    ] == read.to_list()
    assert at == parse_times(pl.Series(["1790000000000"]), ("epoch_ms",), "UTC")[0]


def test_units_can_come_from_the_record() -> None:
    """Each record's own unit holds, in any case; an unknown one is rejected by the unit's field."""
    mapping = _feed('quantity = { from = "n", unit_from = "u", unit = "KB", base = 1000 }\nused_at = { from = "at" }')
    raw = _raw(id=list("abcd"), card=["1"] * 4, n=["1.5"] * 4, u=["mb", None, "B", "MiB"], at=["2026-10-01"] * 4)
    usage, rejects = mediate(raw, mapping)
    assert [1_500_000, 1500, 2] == usage["quantity"].to_list()
    assert [("d", "bad_value", "u")] == rejects.select("record_key", "reason", "field").rows()


def test_sources_are_coalesced_joined_matched_mapped_and_defaulted() -> None:
    """The options of a field work together as the mapping language says."""
    mapping = _feed(
        """
imsi = { from = ["i", "j"], empty = ["-"] }
quantity = { value = "5", unit = "KB" }
used_at = { from = "at" }
session_id = { join = ["i", "j"], separator = ":" }
rat = { from = "r", values = { "1" = "3G", "*" = "other" }, default = "1" }
apn = { from = "a", pattern = '^([a-z]+)\\.' }
plmn = { join = ["mcc", "mnc"] }
"""
    )
    raw = _raw(
        id=["a", "b", "c"],
        card=["1"] * 3,
        i=["x", "-", ""],
        j=["y", "z", "w"],
        at=["2026-10-01"] * 3,
        r=[None, "1", "7"],
        a=["iot.example", None, "IOT"],
        mcc=["262", "234", "1"],
        mnc=["1", "015", None],
    )
    usage, rejects = mediate(raw, mapping)
    assert [("x", "x:y", "3G", "iot", "26201", "DE"), ("z", "-:z", "3G", None, "234015", "GB")] == (
        usage.select("imsi", "session_id", "rat", "apn", "plmn", "country").rows()
    )
    assert [5120, 5120] == usage["quantity"].to_list()
    assert [("c", "bad_value", "a")] == rejects.select("record_key", "reason", "field").rows()


def test_one_line_gives_a_record_for_each_rule_that_holds() -> None:
    """Rules apply side by side, in source order; a line that none applies to is an unknown service."""
    text = 'name = "t"\n[format]\ntype = "csv"\n[fields]\niccid = { from = "card" }\nused_at = { from = "at" }\n'
    for service, unit in (("data", ' , unit = "KB"'), ("voice", "")):
        text += f'[[records]]\nservice = "{service}"\nkey = ["id"]\nkey_suffix = "{service}"\n'
        text += f'when = {{ field = "{service}", present = true }}\n'
        text += f'[records.fields]\nquantity = {{ from = "{service}"{unit} }}\n'
    raw = _raw(id=list("abc"), card=["1"] * 3, at=["2026-10-01"] * 3, data=["1", "2", None], voice=["7", None, None])
    usage, rejects = mediate(raw, parse_mapping(text))
    assert [("a|data", 1024, 1), ("a|voice", 7, 1), ("b|data", 2048, 2)] == (
        usage.select("record_key", "quantity", "source_row").rows()
    )
    assert [(3, "c|data", "unknown_service", "data")] == rejects.select(
        "source_row", "record_key", "reason", "field"
    ).rows()


def test_a_key_can_be_made_of_file_and_row() -> None:
    """A feed without keys is keyed by the name of the file and the row."""
    mapping = _feed('quantity = { from = "n" }\nused_at = { from = "at" }', head='service = "data"\nkey = []')
    usage, _ = mediate(_raw(card=["1"], n=["1"], at=["2026-10-01"]), mapping, "october.csv")
    assert ["october.csv:1"] == usage["record_key"].to_list()


def test_a_text_of_more_than_512_bytes_is_rejected() -> None:
    """No identifier is that long; keeping it out bounds what a hostile file can make of it."""
    _, rejects = _plain(iccid=["1" * 513, "1" * 512])
    assert [(1, "too_long", "iccid")] == rejects.select("source_row", "reason", "field").rows()


def test_networks_and_countries_are_normalised_and_checked() -> None:
    """A PLMN loses its hyphen, a country its case; an MCC gives the country where the feed names none."""
    usage, rejects = _plain(
        plmn=["262-01", "310410", "90128", "2620", None],
        country=[None, "ca", None, None, "Germany"],
    )
    assert [("26201", "DE"), ("310410", "CA"), ("90128", None)] == usage.select("plmn", "country").rows()
    assert [(4, "bad_value", "plmn"), (5, "bad_value", "country")] == rejects.select(
        "source_row", "reason", "field"
    ).rows()


@pytest.mark.parametrize(
    ("plmn", "country"),
    [
        ("262", "DE"),
        ("20801", "FR"),
        ("310410", "US"),
        ("310260", "US"),
        ("311480", "US"),
        ("310", "US"),
        ("311780", "AS"),
        ("334020", "MX"),
        ("46000", "CN"),
        ("00101", None),
        ("90143", None),
        ("99999", None),
        ("x", None),
        ("26", None),
    ],
)
def test_countries_of_networks(plmn: str, country: str | None) -> None:
    """Known codes give their country; test, international and unknown networks none."""
    assert country == country_of(plmn)


def test_usage_has_the_types_of_its_schema() -> None:
    """Every column of usage is one of USAGE_SCHEMA, of its type, in its order."""
    usage, _ = _plain(
        imsi=["1"], session_id=["s"], sequence=["3"], started_at=["2026-10-01"], ended_at=["2026-10-01"], imei=["1"],
        volume_up_bytes=["1"], volume_down_bytes=["0"], record_type=["interim"], plmn=["26201"], rat=["LTE"], apn=["a"],
    )  # fmt: skip
    assert [(name, USAGE_SCHEMA[name]) for name in USAGE_SCHEMA if name in usage.columns] == list(usage.schema.items())
    assert {"sequence", "country", "started_at"} <= set(usage.columns)


@pytest.mark.parametrize("plain", [0, 3, 500])
@pytest.mark.parametrize("odd", [1, 150])
def test_amounts_stand_alone(plain: int, odd: int) -> None:
    """What an amount becomes does not depend on the amounts beside it, be they whole numbers, few or many others."""
    texts = ["1.5", "0" * 70 + "2.5", "-1", "x", " 7 ", "1e3", None] * odd + ["12"] * plain
    together = scale(pl.Series(texts, dtype=pl.String), 1024)
    alone = {text: scale(pl.Series([text], dtype=pl.String), 1024) for text in set(texts)}
    assert [alone[text].units[0] for text in texts] == together.units.to_list()
    assert together.bad is not None
    assert together.negative is not None
    assert [text == "x" for text in texts] == together.bad.to_list()
    assert [text == "-1" for text in texts] == together.negative.to_list()
