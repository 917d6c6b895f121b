"""Scenarios of usage: what is mediated, rated, refused and corrected."""

from __future__ import annotations

from schemas.commands import Activate
from tests.scenarios.stories import (
    Apply,
    Ingest,
    Say,
    Scenario,
    Tick,
    imsi,
    msisdn,
    nov,
    oct_,
    plain,
    sim,
    singles,
    stamp,
    used,
)
from tests.scenarios.words import MB, TELL, account, card, rule, solo, table, told


def tiers() -> Scenario:
    """P2, P3, P6: an allowance, tiers climbed within one record, calls by the minute, messages."""
    one = sim(10)
    toml = account("tiers") + card(one, "tiers", "tiers-plan") + """
[[plans]]
id = "tiers-plan"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2024-01-01
[[plans.versions.rates]]
service = "data"
allowance = "10 MB"
[plans.versions.rates.price]
model = "graduated"
tiers = [{ to = "10 MB", price = "0.10", per = "1 MB" }, { price = "0.01", per = "1 MB", flat = "0.50" }]
[[plans.versions.rates]]
service = "voice"
allowance = "1 min"
increment = { minimum = "60 s", step = "1 s" }
price = { model = "flat", price = "0.06", per = "1 min" }
[[plans.versions.rates]]
service = "sms"
price = { model = "flat", price = "0.05" }
"""  # fmt: skip
    calls = [used(f"tiers-{n}", one, s, oct_(3), service="voice", direction="mo") for n, s in enumerate((20, 90, 61))]
    return told(
        "tiers", 10,
        Apply(at=oct_(1), toml=toml),
        plain(oct_(2), *(used(f"tiers-d{n}", one, 4 * MB, oct_(2, n)) for n in range(8))),
        plain(oct_(3), *calls, used("tiers-s", one, 3, oct_(3), service="sms", direction="mo")),
        # 32 MB: 10 included, 10 at 0.10, 12 at 0.01 and 0.50; 211 s: 60 included, 151 at 0.001; 3 messages.
        rated=12, charged=1_000_000_000 + 620_000_000 + 151_000_000 + 150_000_000,
    )  # fmt: skip


def repeats() -> Scenario:
    """F4: a file again, a record again in another file, another content under a key that was accepted."""
    one = sim(14)
    rows = [used(f"rep-{n}", one, n * 1000, oct_(9, n)) for n in range(1, 9)]
    other = rows[2] | {"quantity": 1}
    return told(
        "rep", 14,
        Apply(at=oct_(1), toml=account("rep") + solo("rep-plan") + card(one, "rep", "rep-plan")),
        plain(oct_(9), *rows[:6], rows[0]),
        plain(oct_(9, 13), *rows[:6], rows[0]),
        plain(oct_(9, 14), rows[5], other, *rows[6:], rows[7]),
        singles(oct_(9, 15), rows[1], other, used("rep-9", one, 5, oct_(9))),
        rated=9, duplicates=1 + 7 + 2 + 1, rejected={"conflict": 2},
    )  # fmt: skip


def refused() -> Scenario:
    """F5: what mediation and the fold refuse keeps its bytes; a card is unknown until its catalogue comes."""
    one, unknown = sim(15), sim(15, 9)
    good = used("ref-early", one, 7, oct_(2))
    bad = [
        used("ref-time", one, 5, "yesterday"), used("ref-number", one, "many", oct_(12)),
        used("ref-minus", one, -4, oct_(12)), used("", one, 5, oct_(12)),
        used("ref-service", one, 5, oct_(12), service="mail"), used("ref-future", one, 5, oct_(12, 14)),
        used("ref-unknown", unknown, 5, oct_(12)), used("ref-norate", one, 5, oct_(12), service="voice"),
        used("ref-fine", one, 5, oct_(12)),
    ]  # fmt: skip
    torn = plain(oct_(13), used("ref-torn", one, 5, oct_(13)), used("ref-whole", one, 6, oct_(13)))
    lines = torn.content.splitlines()
    lines.insert(2, b'ref-open,data,"8988,1,2026')
    lines.insert(1, b"ref-\xff\xfe,data," + one.encode() + b",1,2026-10-13T00:00:00Z")
    return told(
        "ref", 15,
        plain(oct_(2), good),
        Apply(at=oct_(3), toml=account("ref") + solo("ref-plan") + card(one, "ref", "ref-plan")),
        plain(oct_(3, 13), good),
        plain(oct_(12), *bad),
        Ingest(at=oct_(13), feed="plain", content=b"\n".join([*lines, b""]), suffix=".csv"),
        singles(oct_(13, 13), *bad[:4], used("ref-single", one, 5, oct_(12)), bad[6]),
        rated=5, rejected={
            "missing": 2, "bad_time": 2, "bad_value": 2, "negative": 2, "unknown_service": 1, "future": 1,
            "unknown_card": 3, "no_rate": 1, "encoding": 1, "malformed": 1,
        },
    )  # fmt: skip


def corrections() -> Scenario:
    """F6: usage is taken back and replaced by key, also what was replaced; what is not there is refused."""
    one, two = sim(16), sim(16, 2)

    def undo(key: str, kind: str, of: str, quantity: int = 0) -> dict[str, object]:
        return used(key, one, quantity, oct_(14), record_type=kind, corrects_key=of)

    toml = (
        account("corr") + solo("corr-plan", "1 MB") + card(one, "corr", "corr-plan") + card(two, "corr", "corr-plan")
        + rule("corr-rule", "corr", "data_usage_cycle", TELL, threshold='"3 MB"', repetition='"always"')
    )  # fmt: skip
    return told(
        "corr", 16,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="corr-rule"),)),
        plain(oct_(14), *(used(f"corr-{n}", one, MB, oct_(14, n)) for n in range(4)), used("corr-b", two, 5, oct_(14))),
        plain(
            oct_(15), used("corr-8", one, 4, oct_(15), record_type="", corrects_key=""),
            undo("corr-r1", "reverse", "corr-1"), undo("corr-r2", "replace", "corr-2", 2 * MB),
            used("corr-9", one, MB, oct_(15)), undo("corr-r0", "reverse", "corr-none"),
        ),
        plain(oct_(16), undo("corr-r1", "reverse", "corr-1"), undo("corr-r3", "reverse", "corr-1")),
        plain(oct_(17), undo("corr-r4", "replace", "corr-r2", 7), undo("corr-r5", "reverse", "corr-r4")),
        plain(oct_(18), used("corr-10", one, 3 * MB, oct_(18))),
        rated=10, reversed=4, rejected={"unknown_key": 2}, duplicates=1,
    )  # fmt: skip


def sessions() -> Scenario:
    """F3: running totals become differences, over files too; a fall is a new segment, a jump a missing partial."""
    one = sim(17)
    names = (
        "SessionRowID,Msisdn,SIMSerial,SessionId,SessionStartUTC,Imsi,Imei,RecordDateUtc,RecordType,APN,"
        "OutgoingDataVolume,IncomingDataVolume,TotalDataVolume,MCC,MNC,RatType"
    )

    def file(day: int, *records: tuple[int, int, str, int]) -> Ingest:
        lines = [
            f"17{row},{msisdn(17)},{one},ses-{session},2026-10-15 00:00:00,{imsi(17)},,2026-10-{day} 0{row % 10}:"
            f"00:00,{kind},apn,{total // 2},{total - total // 2},{total},262,01,LTE"
            for row, session, kind, total in records
        ]
        content = "\n".join([names, *lines, ""]).encode()
        return Ingest(at=oct_(day), feed="cellhire", content=content, suffix=".csv")

    numbered = [f"t{n},{one},ses-gap,{n},{n * 1000},{stamp(oct_(17, n))}" for n in (1, 2, 5, 6)]
    totals = "\n".join(["id,iccid,session,n,total,time", *numbered, ""]).encode()
    toml = (
        account("ses") + solo("ses-plan") + card(one, "ses", "ses-plan")
        + rule("ses-start", "ses", "data_session_started", TELL) + rule("ses-stop", "ses", "data_session_stopped", TELL)
    )  # fmt: skip
    return told(
        "ses", 17,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="ses-start"), Activate(rule="ses-stop"))),
        file(15, (1, 1, "Start", 0), (2, 1, "Interim", 3 * MB), (3, 2, "Start", 0), (4, 1, "Interim", 7 * MB)),
        file(16, (5, 1, "Interim", 2 * MB), (6, 2, "Interim", 5), (7, 1, "Stop", 6 * MB)),
        file(17, (6, 2, "Interim", 5), (8, 2, "Stop", MB)),
        Ingest(at=oct_(17, 13), feed="totals", content=totals, suffix=".csv"),
        rated=12, gaps=1, rejected={"conflict": 1}, firings={"ses-start": 3, "ses-stop": 2},
    )  # fmt: skip


def addons() -> Scenario:
    """C5, P6: data that was bought on top is used up before overage, by earliest end; what is left is lost."""
    one = sim(18)

    def bought(name: str, amount: str, day: int, until: str) -> str:
        at = stamp(oct_(day))
        return table(
            "addons", id=f'"{name}"', iccid=f'"{one}"', service='"data"', amount=f'"{amount}"', purchased_at=at,
            expires_on=until, price='"1.00"',
        )  # fmt: skip

    toml = (
        account("add") + solo("add-plan") + card(one, "add", "add-plan")
        + '\n[[limits]]\nid = "add"\nkind = "hard_cut"\nplan = "add-plan"\n'
        + '\n[[limits]]\nid = "add-left"\nkind = "balance_alert"\naccount = "add"\nlevels = [50, 10]\n'
    )  # fmt: skip
    names = ("limit.hard_cut.add", "limit.balance_alert.add-left")
    return told(
        "add", 18,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=tuple(Activate(rule=name) for name in names)),
        plain(oct_(2), used("add-1", one, 8 * MB, oct_(2))),
        Apply(at=oct_(3), toml=bought("add-a", "5 MB", 3, "2026-10-31") + bought("add-b", "5 MB", 3, "2026-10-12")),
        plain(oct_(4), used("add-2", one, 4 * MB, oct_(4)), used("add-3", one, 4 * MB, oct_(4))),
        Tick(at=oct_(13)),
        plain(oct_(14), *(used(f"add-{n}", one, 3 * MB, oct_(14)) for n in (4, 5, 6))),
        rated=6,
    )  # fmt: skip


def cycles() -> Scenario:
    """T2, T5, P1: usage on both sides of the end of a cycle, late within grace and after it, and a new price."""
    one = sim(19)
    version = """
[[plans.versions]]
version = 2
effective = 2026-11-01
[[plans.versions.rates]]
service = "data"
allowance = "1 MB"
price = { model = "flat", price = "0.20", per = "1 MB" }
"""
    mine = solo("cyc-plan", "5 MB")
    toml = (
        account("cyc", time_zone="Asia/Tokyo", grace_hours="72").replace('"72"', "72") + mine
        + card(one, "cyc", "cyc-plan")
        + rule("cyc-rule", "cyc", "data_usage_cycle", TELL, threshold='["50 %", "100 %"]')
    )  # fmt: skip
    return told(
        "cyc", 19,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=(Activate(rule="cyc-rule"),)),
        Apply(at=oct_(20), toml=mine + version),
        plain(nov(1), *(used(f"cyc-{n}", one, MB, oct_(31, 12 + 2 * n)) for n in range(6))),
        plain(nov(2), used("cyc-grace", one, 2 * MB, oct_(30))),
        plain(nov(6), used("cyc-late", one, 2 * MB, oct_(30)), used("cyc-now", one, MB, nov(6))),
        rated=9, late=1,
    )  # fmt: skip


def zones() -> Scenario:
    """P5, L7: prices and thresholds by zone and country; where no zone holds, the plan refuses."""
    one = sim(28)
    toml = account("zon") + card(one, "zon", "zon-plan") + """
[[zones]]
id = "zon"
[[zones.zones]]
name = "home"
countries = ["DE"]
home = true
[[zones.zones]]
name = "near"
countries = ["FR", "NL"]
[[plans]]
id = "zon-plan"
currency = "USD"
[[plans.versions]]
version = 1
effective = 2024-01-01
zones = "zon"
rates = [
    { service = "data", zone = "home", allowance = "2 MB", price = { model = "flat", price = "0.01", per = "1 MB" } },
    { service = "data", zone = "near", price = { model = "flat", price = "0.10", per = "1 MB" } },
]
"""  # fmt: skip
    toml += rule("zon-near", "zon", "data_usage_zone_cycle", TELL, zone='"near"', threshold='"1 MB"')
    toml += rule("zon-nl", "zon", "data_usage_country_cycle", TELL, country='"NL"', threshold='"1 MB"', at='"reached"')
    toml += rule("zon-home", "zon", "home_data_allowance", TELL, threshold='["50 %", "100 %"]', at='"reached"')
    names = ("zon-near", "zon-nl", "zon-home")
    places = ("DE", "FR", "DE", "NL", "DE", "US", "NL")
    return told(
        "zon", 28,
        Apply(at=oct_(1), toml=toml),
        Say(at=oct_(1, 13), commands=tuple(Activate(rule=name) for name in names)),
        plain(oct_(26), *(used(f"zon-{n}", one, MB, oct_(26, n), country=at) for n, at in enumerate(places))),
        rated=6, rejected={"no_rate": 1},
    )  # fmt: skip
