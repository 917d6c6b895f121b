"""Days of plans through the driver: cycles from the 31st, and holidays that are weekdays too (T2, P4)."""

from __future__ import annotations

from pathlib import Path

from tests.support.ingested import CARD, Ingested

PLAN = """
[[accounts]]
id = "acme"
[[plans]]
id = "p"
currency = "EUR"
cycle = {{ anchor_day = {anchor} }}
[[plans.versions]]
version = 1
effective = 2025-01-01
holidays = [2026-05-01]
bands = [
    {{ name = "weekday", days = "weekdays", weight = {weight} }},
    {{ name = "holiday", days = "holidays", start = "00:00", end = "12:00", weight = 10 }},
]
rates = [
    {{ service = "data", allowance = 5, price = {{ model = "flat", price = "1" }} }},
    {{ service = "voice", band = "weekday", price = {{ model = "flat", price = "1" }} }},
    {{ service = "voice", band = "holiday", price = {{ model = "flat", price = "7" }} }},
    {{ service = "voice", price = {{ model = "flat", price = "3" }} }},
]
[[cards]]
iccid = "{card}"
account = "acme"
plan = "p"
"""


def test_cycles_from_the_31st(tmp_path: Path) -> None:
    """Shorter months end them earlier; each cycle has its allowance once."""
    weir = Ingested(tmp_path, PLAN.format(anchor=31, weight=0, card=CARD))
    for day in ("01-31", "02-27", "02-28", "03-30", "03-31"):
        line = f"record_key,service,iccid,quantity,used_at\n{day},data,{CARD},4,2026-{day}\n"
        weir.ingest("plain", line, as_of=f"2026-{day}T12:00:00+00:00", name=day)
    found = weir.rows("rated").sort("record_key").select("record_key", "cycle", "from_allowance").rows()
    assert [
        ("01-31", "2026-01-31", 4),
        ("02-27", "2026-01-31", 1),
        ("02-28", "2026-02-28", 4),
        ("03-30", "2026-02-28", 1),
        ("03-31", "2026-03-31", 4),
    ] == found


def test_a_holiday_on_a_weekday(tmp_path: Path) -> None:
    """1 May 2026 is a Friday: the heavier band holds, and where the band of holidays has ended that of weekdays."""
    text = f"""record_key,service,direction,iccid,quantity,used_at
morning,voice,mo,{CARD},10,2026-05-01T10:00:00Z
evening,voice,mo,{CARD},10,2026-05-01T20:00:00Z
"""
    for weight, morning in ((20, 10), (10, 70), (0, 70)):
        folder = tmp_path / str(weight)
        folder.mkdir()
        weir = Ingested(folder, PLAN.format(anchor=1, weight=weight, card=CARD))
        weir.ingest("plain", text, as_of="2026-05-02T00:00:00+00:00")
        rows = weir.rows("rated").select("record_key", "charge_nanos").rows()
        assert {"morning": morning, "evening": 10} == {key: nanos // 10**9 for key, nanos in rows}
