"""Currencies and countries that catalogue files may name, and the countries of networks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.catalogue.codes import countries, currencies
from rating.mediation.country import country_of
from rating.mediation.network_countries import COUNTRY_BY_MCC, COUNTRY_BY_NETWORK

ROOT = Path(__file__).resolve().parents[2]


def test_countries_are_those_of_iso_3166_and_kosovo() -> None:
    """249 countries have a code; regions and groups, for which the CLDR has codes of its own, are none of them."""
    assert 250 == len(countries())
    assert {"DE", "TW", "PS", "GG", "SX", "AQ", "XK"} <= countries()
    assert countries().isdisjoint({"EU", "EZ", "UN", "AC", "IC", "CP", "CQ", "DG", "EA", "TA", "QO", "XA", "XB", "ZZ"})
    assert countries().isdisjoint({"AN", "CS", "DD", "SU", "TP", "YU", "ZR"})


def test_currencies_are_those_in_use() -> None:
    """Legal tender and units of account, not what was replaced, nor what ISO 4217 has no code for."""
    assert {"EUR", "USD", "JPY", "KWD", "CNY", "XCG", "XDR", "CLF"} <= currencies()
    assert currencies().isdisjoint({"DEM", "FRF", "HRK", "BGN", "SVC", "ANG", "CUC", "SLL", "ZWL", "CNH", "EURO", ""})


def test_codes_cost_nothing_until_one_is_needed() -> None:
    """Babel is not imported with the catalogue's checks."""
    code = "import sys, pipeline.catalogue; print('babel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "False" == done.stdout.strip()


def test_networks_are_in_countries() -> None:
    """MCCs are those of countries, and a network is listed only if it is in another country than its MCC."""
    assert set(COUNTRY_BY_MCC) <= set(range(200, 800))
    assert set(COUNTRY_BY_MCC.values()) | set(COUNTRY_BY_NETWORK.values()) <= countries()
    assert all(0 <= mnc <= 999 and COUNTRY_BY_MCC[mcc] != country for (mcc, mnc), country in COUNTRY_BY_NETWORK.items())


@pytest.mark.parametrize(
    ("plmn", "country"),
    [
        ("42501", "IL"), ("42505", "PS"), ("425005", "PS"), ("425", "IL"),
        ("33805", "JM"), ("338050", "JM"),
        ("310120", "US"), ("310370", "US"), ("311470", "VI"), ("310059", "BM"),
        ("34001", "GP"), ("34011", "GF"), ("34012", "MQ"),
        ("64700", "RE"), ("64701", "YT"),
        ("36251", "SX"), ("36278", "BQ"), ("36299", "CW"),
        ("23450", "GB"), ("50510", "AU"), ("25500", "MD"), ("25501", "UA"),
        ("332", "VI"), ("46100", "CN"), ("28967", None), ("90128", None),
    ],
)  # fmt: skip
def test_networks_of_shared_codes(plmn: str, country: str | None) -> None:
    """The MNC decides if it is known to serve another territory; otherwise the country of the MCC stands."""
    assert country == country_of(plmn)


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("network_countries", ROOT / "scripts" / "network_countries.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _network(mcc: int, mnc: str, country: str | None, kind: str = "National") -> dict[str, str | None]:
    return {"type": kind, "countryCode": country, "mcc": f"{mcc:03}", "mnc": mnc, "operator": f"of {country}"}


def test_the_table_comes_from_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In whatever order the list is: the country with the most networks, and what the script decides."""
    listed = [
        _network(262, "01", "DE"), _network(234, "50", "JE"), _network(234, "10", "GB"), _network(234, "15", "GB"),
        _network(340, "01", "BL/GF/GP/MF/MQ"), _network(289, "67", "GE-AB"), _network(425, "05", "IL"),
        _network(425, "01", "IL"), _network(1, "01", None, "Test"), _network(314, "100 - 190", "US"),
    ]  # fmt: skip
    generator = _generator()
    texts = []
    for order in (listed, listed[::-1]):
        (tmp_path / "list.json").write_text(json.dumps(order))
        monkeypatch.setattr(generator, "TABLE", tmp_path / "table.py")
        generator.main(str(tmp_path / "list.json"), "9.9.9")
        texts.append((tmp_path / "table.py").read_text())
    assert texts[0] == texts[1]
    written: dict[str, dict[object, str]] = {}
    exec(texts[0], written)
    assert {234: "GB", 262: "DE", 314: "US", 332: "VI", 340: "GP", 425: "IL", 647: "RE"}.items() <= written[
        "COUNTRY_BY_MCC"
    ].items()
    assert {1, 289}.isdisjoint(written["COUNTRY_BY_MCC"])
    assert COUNTRY_BY_NETWORK == written["COUNTRY_BY_NETWORK"]
    assert "234 50: JE in the list, GB in the table (of JE)" in capsys.readouterr().out.splitlines()


def test_the_table_is_as_the_script_writes_it() -> None:
    """Nobody has edited it by hand."""
    generator, found = (
        _generator(),
        (ROOT / "rating" / "mediation" / "network_countries.py").read_text(encoding="utf-8"),
    )
    version = found.split("mcc-mnc-list ")[1].split(" ")[0]
    assert generator.NETWORKS == COUNTRY_BY_NETWORK
    assert (generator.UNUSED | generator.SHARED).items() <= COUNTRY_BY_MCC.items()
    assert found == generator.table(COUNTRY_BY_MCC, version)
