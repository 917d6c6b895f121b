"""One pool has one percentage in the lists, in SQL, in the report and in the live state of a worker (Q6)."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from jobs.context import Data
from jobs.show.source import reading
from pipeline.streaming.worker.live import card_now, pool_now
from tests.support.weir_command import Weir

PERCENTS = {1: "0.13", 3: "0.38", 800: "100.00", 997: "124.63"}  # by usage of a pool of 800 bytes
CATALOGUE = """
[[accounts]]
id = "rhine"
[[plans]]
id = "shared"
type = "dynamic"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2024-01-01
[[plans.versions.rates]]
service = "data"
allowance = "800"
price = { model = "flat", price = "0.001", per = "1" }
"""
MEMBER = """
[[pools]]
id = "{pool}"
account = "rhine"
kind = "dynamic"
[[cards]]
iccid = "{iccid}"
account = "rhine"
plan = "shared"
pool = "{pool}"
"""


def test_a_pool_has_one_percent(tmp_path: Path, weir: Weir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of these figures lie on a half of a hundredth, which every view rounds up."""
    cards = {used: f"8949000000000000{used:04d}" for used in PERCENTS}
    members = [MEMBER.format(pool=f"of {used}", iccid=iccid) for used, iccid in cards.items()]
    (tmp_path / "catalogue.toml").write_text("".join([CATALOGUE, *members]))
    rows = [f"k{used},data,{iccid},{used},2026-10-12T12:00:00Z" for used, iccid in cards.items()]
    (tmp_path / "usage.csv").write_text("\n".join(["record_key,service,iccid,quantity,used_at", *rows, ""]))
    monkeypatch.chdir(tmp_path)

    def document(*words: str) -> Any:
        return weir("--data", "data", *words, "--json").json

    document("apply", "catalogue.toml")
    document("ingest", "--feed", "plain", "usage.csv", "--as-of", "2026-10-13T05:00:00Z")
    lists: list[list[dict[str, Any]]] = [
        document("pools"),
        [gauge for used in PERCENTS for gauge in document("pool", f"of {used}")["gauges"]],
        document("sql", "SELECT used, size, percent FROM pools"),
        document("report", "--cycle", "2026-10")["pools"],
    ]
    with reading(Data(tmp_path / "data")) as found:
        (engine,) = found.parts
        pools = [pool_now(engine, f"of {used}") for used in PERCENTS]
        members_now = [card_now(engine, iccid) for iccid in cards.values()]
    lists += [[gauge for pool in pools if pool for gauge in pool["services"]]]
    lists += [[share for card in members_now if card for share in card["shares"]]]
    for shown in lists:
        figures = {one["used"]: (one["size"], Decimal(one["percent"])) for one in shown}
        assert figures == {used: (800, Decimal(percent)) for used, percent in PERCENTS.items()}
