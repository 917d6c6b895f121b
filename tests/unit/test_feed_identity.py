"""What makes a record of a feed the same record, session and card, through the driver (F3, F4, F5)."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from pipeline.feeds.mappings import load_mapping
from rating.mediation.records import mediate
from tests.support.ingested import CARD, Ingested

ZONED = f"""
[[accounts]]
id = "acme"
[[zones]]
id = "z"
zones = [{{ name = "home", countries = ["DE"], home = true }}, {{ name = "eu", countries = ["FR"] }}]
[[plans]]
id = "z"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2026-01-01
zones = "z"
bands = [{{ name = "night", start = "22:00", end = "06:00" }}]
rates = [
    {{ service = "data", zone = "home", price = {{ model = "flat", price = "1" }} }},
    {{ service = "data", zone = "eu", price = {{ model = "flat", price = "9" }} }},
    {{ service = "voice", price = {{ model = "flat", price = "1" }} }},
    {{ service = "voice", band = "night", price = {{ model = "flat", price = "9" }} }},
]
[[cards]]
iccid = "{CARD}"
account = "acme"
plan = "z"
"""


def test_another_country_or_start_is_other_content(tmp_path: Path) -> None:
    """F4: a key that comes again with what changes its price is a conflict, and no duplicate."""
    weir = Ingested(tmp_path, ZONED)
    text = f"""record_key,service,direction,iccid,quantity,used_at,started_at,ended_at,country
k1,data,,{CARD},10,2026-10-07T00:00:00Z,,,DE
k1,data,,{CARD},10,2026-10-07T00:00:00Z,,,FR
k2,voice,mo,{CARD},600,2026-10-07T22:10:00Z,2026-10-07T22:00:00Z,2026-10-07T22:10:00Z,
k2,voice,mo,{CARD},600,2026-10-07T22:10:00Z,2026-10-07T20:00:00Z,2026-10-07T22:10:00Z,
k2,voice,mo,{CARD},600,2026-10-07T22:10:00Z,2026-10-07T22:00:00Z,2026-10-07T22:11:00Z,
k2,voice,mo,{CARD},600,2026-10-07T22:10:00Z,2026-10-07T22:00:00Z,2026-10-07T22:10:00Z,
"""
    tally = weir.ingest("plain", text)
    assert (2, 1) == (tally["rated"], tally["duplicate"])
    assert [("k1", "conflict"), ("k2", "conflict"), ("k2", "conflict")] == [row[:2] for row in weir.refused()]


def test_a_running_total_without_a_session_is_missing_it(tmp_path: Path) -> None:
    """F3: a running total means nothing without what it runs over; each would be billed in full."""
    weir = Ingested(tmp_path)
    mapping = """
name = "mine"
[format]
type = "csv"
[volumes]
mode = "cumulative"
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = { from = "iccid" }
quantity = { from = "total" }
used_at = { from = "at" }
session_id = { from = "session" }
"""
    text = f"""id,iccid,session,total,at
1,{CARD},,1000,2026-10-01T01:00:00Z
2,{CARD},s,1100,2026-10-01T02:00:00Z
3,{CARD},,1200,2026-10-01T03:00:00Z
"""
    weir.ingest(weir.mapping(mapping), text)
    assert {"2": 1100} == weir.used()
    assert [("1", "missing", "session"), ("3", "missing", "session")] == weir.refused()


def test_rejects_name_the_field_of_the_source(tmp_path: Path) -> None:
    """F5: whatever finds the fault, `field` is the column of the carrier's file, and the number is the one given."""
    weir = Ingested(tmp_path)
    mapping = """
name = "calls"
[format]
type = "csv"
[[records]]
service = "data"
key = ["id"]
[records.fields]
msisdn = { from = "caller" }
quantity = { from = "bytes" }
used_at = { from = "when" }
"""
    text = """id,caller,bytes,when
k1,4915100000000,1,2026-10-01T01:00:00Z
k2,4915112345678,1,2027-01-01T00:00:00Z
k3,+4915112345678,1,2026-10-01T01:00:00Z
k4,4915112345678,x,2026-10-01T01:00:00Z
"""
    weir.ingest(weir.mapping(mapping), text)
    assert [
        ("k1", "unknown_card", "caller"),
        ("k2", "future", "when"),
        ("k3", "unknown_card", "caller"),
        ("k4", "bad_value", "bytes"),
    ] == weir.refused()
    messages = weir.rows("rejected").sort("source_row")["message"]
    assert ["without +" in message for message in messages] == [False, False, True, False]


def test_card_numbers_with_letters(tmp_path: Path) -> None:
    """Carriers issue ICCIDs with a letter; a feed may write it small, or put the filler of the SIM's memory behind."""
    cards = ("898604B2202110003456", "89860370000000175128")
    catalogue = ZONED.replace(CARD, cards[0]) + f'[[cards]]\niccid = "{cards[1]}"\naccount = "acme"\nplan = "z"\n'
    weir = Ingested(tmp_path, catalogue)
    text = "record_key,service,iccid,quantity,used_at,country\n"
    for key, number in enumerate((*cards, cards[0].lower(), cards[1] + "F", "898604F2202110003456")):
        text += f"k{key},data,{number},5,2026-10-07,DE\n"
    weir.ingest("plain", text)
    assert {"k0": 5, "k1": 5, "k2": 5, "k3": 5} == weir.used()
    assert [("k4", "unknown_card", "iccid")] == weir.refused()


def test_an_imei_as_it_is_printed() -> None:
    """The same device in another way of writing is no other device."""
    text = f"record_key,service,iccid,quantity,used_at,imei\nk,data,{CARD},5,2026-10-07,35-209900-176148-1\n"
    raw = pl.read_csv(text.encode(), infer_schema=False).with_columns(source_row=pl.lit(2, pl.Int64))
    usage, rejects = mediate(raw, load_mapping("plain"))
    assert (["352099001761481"], 0) == (usage["imei"].to_list(), len(rejects))
