"""Scenarios of feeds: how records come, and where they go."""

from __future__ import annotations

from typing import Final

from schemas.commands import Activate
from tests.scenarios.stories import Apply, Ingest, Say, Scenario, imsi, msisdn, oct_, plain, sim, singles, stamp, used
from tests.scenarios.words import MB, TELL, account, card, rule, solo, told

NUMBERS: Final = """
name = "numbers"

[format]
type = "csv"
delimiter = ";"

[[records]]
service = "data"
key = ["id"]

[records.fields]
msisdn = { from = "number" }
quantity = { from = "kb", unit = "KB", base = 1000 }
used_at = { from = "time" }
"""
# Running totals with numbers, whose gaps are missing partials (F3).
TOTALS: Final = """
name = "totals"

[format]
type = "csv"

[volumes]
mode = "cumulative"

[[records]]
service = "data"
key = ["id"]

[records.fields]
iccid = { from = "iccid" }
session_id = { from = "session" }
sequence = { from = "n" }
quantity = { from = "total", unit = "B" }
used_at = { from = "time" }
"""


def spread() -> Scenario:
    """Accounts in several partitions, with accounts below them, in the same files, under a rule of the one above."""
    names = [f"spr-{n}" for n in range(7)]
    toml = account("spr") + solo("spr-plan", "1 MB")
    toml += "".join(account(name, parent="spr") for name in names)
    toml += "".join(card(sim(22, n), name, "spr-plan") for n, name in enumerate(names, 1))
    toml += rule("spr-rule", "spr", "data_usage_cycle", TELL, threshold='"2 MB"')

    def rows(day: int) -> list[dict[str, object]]:
        return [used(f"spr-{day}-{n}", sim(22, n), MB - n, oct_(day, n)) for n in (3, 1, 4, 7, 5, 2, 6)]

    return told(
        "spr", 22,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="spr-rule"),)),
        *(plain(oct_(day), *rows(day)) for day in (23, 24, 25)),
        singles(oct_(26), *rows(26)),
        rated=28, firings={"spr-rule": 7}, actions={"notify": 7},
    )  # fmt: skip


def single_records() -> Scenario:
    """F1, F5: single records beside files: rated in their order, refused with their bytes, known as duplicates."""
    one = sim(23)
    rows = [used(f"one-{n}", one, n * 100_000, oct_(20, n)) for n in range(1, 12)]
    torn = singles(oct_(21), *rows[5:8])
    lines = (*torn.lines, b"one-x,data," + one.encode() + b",1,soon", b"", torn.lines[0], b'one-y,"')
    toml = (
        account("one") + solo("one-plan", "1 MB") + card(one, "one", "one-plan")
        + rule("one-rule", "one", "data_usage_24h", TELL, threshold='"1 MB"', repetition='"always"')
    )  # fmt: skip
    return told(
        "one", 23,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="one-rule"),)),
        singles(oct_(20), *rows[:3]), plain(oct_(20, 13), *rows[2:5]), singles(oct_(20, 14), *rows[3:6]),
        type(torn)(at=torn.at, feed=torn.feed, lines=tuple(line for line in lines if line), header=torn.header),
        plain(oct_(22), *rows[6:]),
        rated=11, rejected={"malformed": 1, "bad_value": 1}, firings={"one-rule": 7},
    )  # fmt: skip


def numbers() -> Scenario:
    """F1, F2: cards named by IMSI in a nested feed, and by MSISDN in a feed of an own mapping; units of both."""
    cards = [sim(24, n) for n in (1, 2)]
    toml = account("num") + solo("num-plan", "1 MB")
    for n, one in enumerate(cards, 1):
        toml += card(one, "num", "num-plan", imsi=f'"{imsi(24, n)}"', msisdn=f'"{msisdn(24, n)}"')
    own = [f"num-{n};{msisdn(24, 1 + n % 2)};{n * 300};{stamp(oct_(20, n))}" for n in range(1, 6)]
    own += [f"num-9;{msisdn(24, 7)};1;{stamp(oct_(20))}"]

    def record(n: int, who: int) -> str:
        contained = [
            f'{{"datavolumeFBCUplink": {part}000, "datavolumeFBCDownlink": 5, "timeOfReport": "{stamp(oct_(21, n))}", '
            f'"localSequenceNumber": {part}}}'
            for part in (1, 2)
        ]
        return (
            f'{{"recordType": 85, "servedIMSI": "{imsi(24, who)}", "p-GWAddress": "num", "chargingID": {2400 + n}, '
            f'"recordOpeningTime": "{stamp(oct_(21, n))}", "duration": 9, "causeForRecClosing": 0, '
            f'"recordSequenceNumber": 1, "listOfServiceData": [{", ".join(contained)}]}}'
        )

    document = "\n".join([*(record(n, 1 + n % 2) for n in range(1, 5)), record(9, 8), ""])
    return told(
        "num", 24,
        Apply(at=oct_(1), toml=toml),
        Ingest(at=oct_(20), feed="numbers", content="\n".join(["id;number;kb;time", *own, ""]).encode(), suffix=".csv"),
        Ingest(at=oct_(21), feed="3gpp-pgw-cdr", content=document.encode(), suffix=".ndjson"),
        rated=13, rejected={"unknown_card": 3},
    )  # fmt: skip


def documents() -> Scenario:
    """F2: a JSON document, whose records travel as decoded rows with their bytes, a bad one among them."""
    one = sim(25)

    def record(n: int, volume: str) -> str:
        return (
            f'{{"imsi": "{imsi(25)}", "start_timestamp": "{stamp(oct_(21, n))}", "end_timestamp": '
            f'"{stamp(oct_(21, n + 1))}", "sim": {{"iccid": "{one}"}}, "operator": {{"mnc": "07", "country": '
            f'{{"mcc": "214"}}}}, "traffic_type": {{"id": 5}}, "id": {25000 + n}, "endpoint": {{"imei": "35"}}, '
            f'"volume": {{"total": {volume}, "tx": {volume}, "rx": 0}}}}'
        )

    volumes = ["1.5", "0.25", '"lots"', "3", "0.000001"]
    text = "[\n" + ",\n".join(record(n, volume) for n, volume in enumerate(volumes)) + "\n]\n"
    return told(
        "doc", 25,
        Apply(at=oct_(1), toml=account("doc") + solo("doc-plan", "1 MB") + card(one, "doc", "doc-plan")),
        Ingest(at=oct_(21, 22), feed="emnify", content=text.encode(), suffix=".json"),
        Ingest(at=oct_(22), feed="emnify", content=text.encode(), suffix=".json"),
        rated=4, duplicates=4, rejected={"bad_value": 2},
    )  # fmt: skip
