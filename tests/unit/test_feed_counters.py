"""Counters of feeds through the driver: wraps, restarts, late records, sessions that end and come again, gaps (F3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ingested import CARD, OTHER, Ingested

_CELLHIRE = (
    "SessionRowID,Msisdn,SIMSerial,SessionId,SessionStartUTC,Imsi,Imei,RecordDateUtc,RecordType,APN,OutgoingDataVolume,"
    "IncomingDataVolume,TotalDataVolume,MCC,MNC,RatType"
)
RADIUS = """
name = "radius"
[format]
type = "csv"
[volumes]
mode = "cumulative"
counter_bits = 64
[numbers]
radix = 10
[fields.imsi]
from = "username"
[[records]]
service = "data"
direction = "both"
key = ["id"]
[records.fields]
session_id = { from = "acctuniqueid" }
record_type = { from = "status", values = { Start = "start", Interim-Update = "interim", Stop = "stop" } }
volume_up_bytes = { from = "in", plus = { from = "in-giga", times = 4294967296 } }
volume_down_bytes = { from = "out", plus = { from = "out-giga", times = 4294967296 } }
used_at = { from = "ts", time = "epoch_s" }
"""


def cellhire(*rows: tuple[str, str, str, str, int], card: str = CARD) -> str:
    """A file of the ready mapping: key, session, time of the record, type and total; all down."""
    lines = [
        f"{key},,{card},{session},2026-10-01 00:00:00,,,{at},{kind},iot,0,{total},{total},262,1,LTE"
        for key, session, at, kind, total in rows
    ]
    return "\n".join([_CELLHIRE, *lines, ""])


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_a_record_that_comes_late_loses_nothing(tmp_path: Path, order: tuple[int, ...]) -> None:
    """Totals 100 and 180 and a restart at 50 are 230 bytes in any order, in one file or in three."""
    rows = [
        ("1", "S", "2026-10-01 01:00:00", "Interim", 100),
        ("2", "S", "2026-10-01 02:00:00", "Interim", 180),
        ("3", "S", "2026-10-01 03:00:00", "Stop", 50),
    ]
    weir = Ingested(tmp_path)
    weir.ingest("cellhire", cellhire(*(rows[n] for n in order)))
    assert 230 == sum(weir.used().values())
    for n in order:
        key, _, *rest = rows[n]
        weir.ingest("cellhire", cellhire((f"other-{key}", "T", *rest), card=OTHER))
    assert 460 == sum(weir.used().values())


def test_a_counter_of_32_bits(tmp_path: Path) -> None:
    """A total near 4 GiB that falls has begun again, and what went through it counts."""
    weir = Ingested(tmp_path)
    rows = [
        (str(number), "S", f"2026-10-01 10:{15 * number:02}:00", kind, total)
        for number, (kind, total) in enumerate(
            [("Start", 0), ("Interim", 4_000_000_000), ("Interim", 100_000_000), ("Stop", 200_000_000)]
        )
    ]
    weir.ingest("cellhire", cellhire(*rows))
    assert 4_494_967_296 == sum(weir.used().values())


def test_octets_gigawords_and_a_stop_without_totals(tmp_path: Path) -> None:
    """A RADIUS feed: two fields make one total, and a start or stop need none."""
    weir = Ingested(tmp_path)
    card = "901405100000001"
    text = f"""id,username,acctuniqueid,status,in,in-giga,out,out-giga,ts
1,{card},u1,Start,,,,,1790848800
2,{card},u1,Interim-Update,1000000,0,4000000000,0,1790849700
3,{card},u1,Interim-Update,2000000,0,100000000,1,1790850600
4,{card},u1,Stop,,,,,1790851500
5,{card},u1,Interim-Update,2500000,0,200000000,1,1790852500
6,{card},u1,Interim-Update,,,,,1790853500
"""
    weir.ingest(weir.mapping(RADIUS), text)
    used = weir.used()
    assert 4_396_967_296 == used["1"] + used["2"] + used["3"] + used["4"]
    assert 2_500_000 + 200_000_000 + 2**32 == used["5"]  # another session under the same id
    assert [("6", "missing", "in")] == weir.refused()


@pytest.mark.parametrize("feed", ["plain", "3gpp-pgw-cdr"])
def test_gaps_of_feeds_of_deltas(tmp_path: Path, feed: str) -> None:
    """A number left out is a partial that is missing, and its usage is lost: it has to be reported."""
    weir = Ingested(tmp_path)
    plain = "record_key,service,iccid,quantity,used_at,session_id,sequence\n"
    cdr = ""
    for number in (1, 2, 5):
        plain += f"k{number},data,{CARD},5,2026-10-01T0{number}:00:00Z,S,{number}\n"
        cdr += (
            f'{{"recordType":85,"servedIMSI":"901405100000001","p-GWAddress":"10.44.0.17","chargingID":77,'
            f'"recordOpeningTime":"2026-10-02T0{number}:00:00+02:00","recordSequenceNumber":{number},'
            f'"causeForRecClosing":16,"listOfServiceData":[{{"datavolumeFBCUplink":1,"datavolumeFBCDownlink":2,'
            f'"timeOfReport":"2026-10-02T0{number}:30:00+02:00"}}]}}\n'
        )
    tally = weir.ingest(feed, plain if feed == "plain" else cdr)
    assert 2 == tally["missing_partials"]
    gaps = weir.rows("gaps").select("after_sequence", "before_sequence", "missing").rows()
    assert [(2, 5, 2)] == gaps
