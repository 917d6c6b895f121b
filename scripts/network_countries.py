"""Write rating/mediation/network_countries.py, the table of mobile country codes, from a list of networks.

    python scripts/network_countries.py mcc-mnc-list.json VERSION

reads the list that the npm package mcc-mnc-list carries (`npm pack mcc-mnc-list`; licence MIT) and writes the same file
for the same list. The list says what networks there are. What it does not settle is decided here, from the assignments
of the ITU (E.212). Each network that the list gives to another country than the table is printed, for a look at it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

TABLE = Path(__file__).resolve().parent.parent / "rating" / "mediation" / "network_countries.py"

# MCCs that the ITU has assigned and that no network of the list uses.
UNUSED = {332: "VI", 406: "IN", 430: "AE", 431: "AE", 461: "CN"}

# MCCs that several territories share and whose networks the list gives to all of them together: the one with the most
# networks, or the mainland.
SHARED = {340: "GP", 362: "CW", 505: "AU", 647: "RE"}

# Networks of one territory under the MCC of another, by (MCC, MNC).
NETWORKS = {
    (255, 0): "MD",  # Interdnestrcom, in Moldova, with an MCC of Ukraine
    (310, 59): "BM",  # CellOne
    (311, 470): "VI",  # Viya
    (311, 780): "AS",  # American Samoa Telecommunications Authority
    (313, 790): "PR",  # Liberty Cablevision of Puerto Rico
    (340, 11): "GF",  # Guyane Téléphone Mobile
    (340, 12): "MQ",  # Martinique Téléphone Mobile
    (362, 31): "BQ",  # Eutel, Sint Eustatius
    (362, 51): "SX",  # Telcell
    (362, 59): "BQ",  # FLOW: Bonaire, Saba, Sint Eustatius, and Sint Maarten too
    (362, 60): "BQ",  # FLOW, the same
    (362, 76): "BQ",  # Digicel Bonaire
    (362, 78): "BQ",  # Telbo, Bonaire
    (425, 5): "PS",  # Jawwal
    (425, 6): "PS",  # Ooredoo Palestine
    (647, 1): "YT",  # Maoré Mobile
    (647, 2): "YT",  # Only, Mayotte
}

HEAD = '''"""Countries of mobile country codes (MCC, ITU-T E.212), and of networks in another country than their MCC.

Written by scripts/network_countries.py; do not edit. The countries of {count} MCCs are those that most networks have in
mcc-mnc-list {version} (npm, MIT licence, copyright 2016 Peter Bakondy); the rest is decided in the script.
docs/decisions/0051 says what differs from phone-iso3166 0.4.1 (MIT licence), the table before this one.
"""

from __future__ import annotations

from typing import Final
'''


def countries_by_mcc(listed: list[dict[str, str | None]]) -> dict[int, str]:
    """The country of each MCC: the one with the most networks in the list, the first by name of equal ones."""
    counted: dict[int, Counter[str]] = defaultdict(Counter)
    for network in listed:
        country = network["countryCode"] or ""
        if network["type"] == "National" and len(country) == 2:
            counted[int(network["mcc"] or "")][country] += 1
    found = {mcc: min(of, key=lambda country: (-of[country], country)) for mcc, of in counted.items()}
    return dict(sorted((UNUSED | found | SHARED).items()))


def differences(listed: list[dict[str, str | None]], by_mcc: dict[int, str]) -> list[str]:
    """What the list says of networks that the table counts to another country, one line each."""
    lines = set()
    for network in listed:
        mcc, mnc, country = int(network["mcc"] or ""), network["mnc"] or "", network["countryCode"] or ""
        ours = NETWORKS.get((mcc, int(mnc)) if mnc.isdigit() else (mcc, -1), by_mcc.get(mcc))
        if network["type"] == "National" and country != ours:
            lines.add(f"{mcc} {mnc}: {country} in the list, {ours} in the table ({network['operator']})")
    return sorted(lines)


def table(by_mcc: dict[int, str], version: str) -> str:
    """The text of the module."""
    lines = [HEAD.format(count=len(by_mcc.keys() - UNUSED.keys() - SHARED.keys()), version=version)]
    lines += ["COUNTRY_BY_MCC: Final[dict[int, str]] = {"]
    lines += [f'    {mcc}: "{country}",' for mcc, country in by_mcc.items()]
    lines += ["}", "", "COUNTRY_BY_NETWORK: Final[dict[tuple[int, int], str]] = {  # by MCC and MNC"]
    lines += [f'    ({mcc}, {mnc}): "{country}",' for (mcc, mnc), country in sorted(NETWORKS.items())]
    return "\n".join([*lines, "}", ""])


def main(source: str, version: str) -> None:
    """Write the table and print what differs from the list."""
    listed = json.loads(Path(source).read_text(encoding="utf-8"))
    by_mcc = countries_by_mcc(listed)
    TABLE.write_text(table(by_mcc, version), encoding="utf-8")
    print(f"{TABLE}: {len(by_mcc)} MCCs, {len(NETWORKS)} networks apart")
    print(*differences(listed, by_mcc), sep="\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/network_countries.py mcc-mnc-list.json VERSION")
    main(sys.argv[1], sys.argv[2])
