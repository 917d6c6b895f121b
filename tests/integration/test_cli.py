"""The command line as a stranger meets it: what each command prints, how each failure ends, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import app as cli
from tests.support.progress import communicated, completed, wait_until
from tests.support.weir_command import WEIR, Result, Weir

BERLIN, ANGELES, MEMBER = "89490000000000000011", "89010000000000000022", "89490000000000000033"
AS_OF = "2026-10-13T05:00:00Z"  # the 13th in Berlin, still the 12th in Los Angeles

CATALOGUE = f"""
[[accounts]]
id = "rhine"
time_zone = "Europe/Berlin"
[[accounts]]
id = "coast"
time_zone = "America/Los_Angeles"
[[plans]]
id = "solo"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2024-01-01
bands = [{{ name = "night", start = "22:00", end = "06:00" }}]
test = {{ amount = "1000", months = 3 }}
[[plans.versions.rates]]
service = "data"
allowance = "5000"
price = {{ model = "flat", price = "0.001", per = "1" }}
[[plans.versions.rates]]
service = "voice"
price = {{ model = "flat", price = "0.6", per = "1 min" }}
[[plans.versions.rates]]
service = "voice"
band = "night"
price = {{ model = "flat", price = "0.3", per = "1 min" }}
[[plans]]
id = "shared"
type = "dynamic"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2024-01-01
[[plans.versions.rates]]
service = "data"
allowance = "10000"
price = {{ model = "flat", price = "0.001", per = "1" }}
[[pools]]
id = "fleet"
account = "rhine"
kind = "dynamic"
[[cards]]
iccid = "{BERLIN}"
account = "rhine"
plan = "solo"
tags = ["meter"]
[[cards]]
iccid = "{ANGELES}"
account = "coast"
plan = "solo"
[[cards]]
iccid = "{MEMBER}"
account = "rhine"
plan = "shared"
pool = "fleet"
[[addons]]
id = "plus"
iccid = "{ANGELES}"
service = "data"
amount = "1000"
purchased_at = 2026-10-01T00:00:00Z
expires_on = 2026-10-31
"""

# Usage of the 11th, the 12th and the 13th of each account's own calendar, then lines that cannot be rated.
USAGE = f"""record_key,service,iccid,quantity,used_at
b1,data,{BERLIN},4000,2026-10-11T10:00:00Z
b2,data,{BERLIN},2000,2026-10-12T21:59:59Z
b3,data,{BERLIN},500,2026-10-12T22:00:00Z
a1,data,{ANGELES},5500,2026-10-11T10:00:00Z
a2,data,{ANGELES},700,2026-10-12T06:59:59Z
a3,data,{ANGELES},900,2026-10-12T07:00:00Z
p1,data,{MEMBER},3000,2026-10-12T12:00:00Z
b1,data,{BERLIN},4000,2026-10-11T10:00:00Z
x1,data,{BERLIN},lots,2026-10-12T12:00:00Z
x2,data,89990000000000000099,1,2026-10-12T12:00:00Z
x3,data
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a catalogue and a feed file."""
    (tmp_path / "catalogue.toml").write_text(CATALOGUE)
    (tmp_path / "usage.csv").write_text(USAGE)
    return tmp_path


@pytest.fixture
def loaded(weir: Weir, files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same directory, its usage rated into the data directory that WEIR_DATA names."""
    monkeypatch.setenv("WEIR_DATA", str(files / "data"))
    assert 0 == weir("apply", files / "catalogue.toml").status
    assert 0 == weir("ingest", "--feed", "plain", files / "usage.csv", "--as-of", AS_OF).status
    return files


def test_ingest_prints_one_object_and_the_same_again_is_all_duplicates(weir: Weir, files: Path) -> None:
    """`ingest --json` has the counts, the charge as decimal text by currency and the seconds; --data says where."""
    data = ("--data", files / "data")
    applied = weir(*data, "apply", files / "catalogue.toml", "--json").json
    made = {"accounts": 2, "zones": 0, "plans": 2, "pools": 1, "addons": 1, "rules": 0, "cards": 3}
    assert made | {"firings": 0, "actions": 0} == applied
    command = (*data, "ingest", "--feed", "plain", files / "usage.csv", "--as-of", AS_OF, "--json")
    first = weir(*command).json
    assert isinstance(first.pop("seconds"), float)
    refused = {"bad_value": 1, "malformed": 1, "unknown_card": 1}
    assert {
        "records": 11,
        "rated": 7,
        "duplicate": 1,
        "rejected": refused,
        "missing_partials": 0,
        "charge": {"EUR": "2.6"},  # Berlin 1,500 past its 5,000; Los Angeles 2,100 past them, 1,000 of it an add-on
        "firings": 0,
        "actions": 0,
        "rerated_records": 0,
        "rerated_subjects": 0,
    } == first
    again = weir(*command).json
    assert (11, 0, 8, refused, {}) == tuple(
        again[name] for name in ("records", "rated", "duplicate", "rejected", "charge")
    )


def test_a_directory_before_its_first_usage_can_be_read(weir: Weir, files: Path) -> None:
    """After `apply` alone every list is empty or full of zeros, and what cannot be there yet is said."""
    data = ("--data", files / "data")
    text = files / "catalogue.toml"
    anchored = "cycle = { anchor_day = 15 }"
    pool, plan = f'kind = "dynamic"\n{anchored}', f'type = "dynamic"\n{anchored}'
    text.write_text(CATALOGUE.replace('kind = "dynamic"', pool).replace('type = "dynamic"', plan))
    assert 0 == weir(*data, "apply", text).status
    for command in (("cards",), ("card", BERLIN), ("pools",), ("pool", "fleet"), ("status",), ("rejected",)):
        assert 0 == weir(*data, *command).status, command
        assert 0 == weir(*data, *command, "--json").status, command
    assert 3 == weir(*data, "cards", "--until-midnight", "--json").json["total"]
    assert "nothing has been rated yet" in weir(*data, "report", "--cycle", "2026-10").err


def test_each_command_prints_json_and_text(weir: Weir, loaded: Path) -> None:
    """Every command that prints has a JSON document and text for people. Both end with status 0."""
    shapes: dict[tuple[object, ...], set[str]] = {
        ("cards",): {"usage", "as_of", "usage_until", "total", "offset", "rows"},
        ("card", BERLIN): {"iccid", "usage", "counters", "addons", "cycles", "days"},
        ("pool", "fleet"): {"pool_id", "gauges", "top"},
        ("status",): {"data", "checkpoint", "cards", "rated_records", "rejected", "charge"},
        ("rejected",): {"only_open", "by_reason", "total", "rows"},
        ("rejected", "list"): {"only_open", "by_reason", "total", "rows"},
        ("compact",): set(),
        ("feeds", "show", "plain"): {"name", "format", "records"},
        ("feeds", "check", "plain", loaded / "usage.csv"): {"columns", "rejected", "rejects", "usage_records"},
        ("report", "--cycle", "2026-10", "--out", loaded / "report", "--format", "csv"): {"cycle", "files"},
    }
    for command, names in shapes.items():
        document = weir(*command, "--json").json
        assert names <= document.keys(), command
        text = weir(*command)
        assert (0, True) == (text.status, bool(text.out.strip())), command
    for command in (("pools",), ("feeds", "list"), ("explain", "b1"), ("sql", "select count(*) as n from rated")):
        assert isinstance(weir(*command, "--json").json, list)
        assert weir(*command).out.strip()
    assert [{"n": 7}] == weir("sql", "select count(*) as n from rated", "--json").json
    assert "n\n7\n" == weir("sql", "select count(*) as n from rated", "--csv").out
    made = weir("generate", "--cards", 20, "--records", 50, "--seed", 3, "--out", loaded / "fleet", "--json").json
    assert 50 == made["records"]


def test_cards_are_read_live_or_until_midnight(weir: Weir, loaded: Path) -> None:
    """T7: the 13th of Berlin and the 12th of Los Angeles are running days, which usage until midnight leaves out."""

    def used(*options: str) -> dict[str, tuple[int, str]]:
        rows = weir("cards", *options, "--json").json["rows"]
        return {row["iccid"]: (row["data_used_bytes"], row["charge"]) for row in rows}

    assert {BERLIN: (6500, "1.5"), ANGELES: (7100, "1.1"), MEMBER: (3000, "0")} == used()
    assert {BERLIN: (6000, "1"), ANGELES: (6200, "0.2"), MEMBER: (3000, "0")} == used("--until-midnight")
    later = used("--until-midnight", "--as-of", "2026-10-13T07:00:00Z")  # midnight in Los Angeles
    assert {BERLIN: (6000, "1"), ANGELES: (7100, "1.1"), MEMBER: (3000, "0")} == later
    assert {BERLIN: None, ANGELES: None, MEMBER: None} == {
        row["iccid"]: row["cycle"] for row in weir("cards", "--as-of", "2026-12-01", "--json").json["rows"]
    }
    document = weir("cards", "--until-midnight", "--json").json
    assert "until_midnight" == document["usage"]
    assert {"America/Los_Angeles": "2026-10-11", "Europe/Berlin": "2026-10-12"}.items() <= document[
        "usage_until"
    ].items()
    assert ("live", None) == tuple(weir("cards", "--json").json[name] for name in ("usage", "usage_until"))
    assert "live" in weir("cards").out
    assert "until 24:00 of the previous local day" in weir("cards", "--until-midnight").out


def test_a_card_is_read_live_or_until_midnight(weir: Weir, loaded: Path) -> None:
    """T7: the counters, cycles and days of one card end with its own previous local day."""
    live, until = (weir("card", ANGELES, *option, "--json").json for option in ((), ("--until-midnight",)))
    assert (7100, 6200) == (live["counters"][0]["billable"], until["counters"][0]["billable"])
    assert (1000, 1000) == (live["counters"][0]["addon_used"], until["counters"][0]["addon_used"])
    assert ["2026-10-11", "2026-10-12"] == [day["day"] for day in live["days"]]
    assert ["2026-10-11"] == [day["day"] for day in until["days"]]
    assert {"America/Los_Angeles": "2026-10-11"} == until["usage_until"]
    assert "2026-10-11 local time" in weir("card", ANGELES, "--until-midnight").out


def test_pools_of_an_open_cycle_are_shown_before_anything_is_used(weir: Weir, loaded: Path) -> None:
    """Q6: in a new cycle a pool has its full size and nothing used; a cycle that is not held is refused."""
    ((now,), (next_cycle,)) = (
        weir("pools", "--as-of", moment, "--json").json for moment in (AS_OF, "2026-10-01T00:00:00Z")
    )
    assert (3000, 10000, "30.00", True) == tuple(now[name] for name in ("used", "size", "percent", "is_open"))
    assert "2026-10-31" == next_cycle["cycle_until"]
    assert 0 == weir("ingest", "--feed", "plain", _one(loaded, "n1", "2026-11-05"), "--as-of", "2026-11-05").status
    ((november,),) = (weir("pools", "--json").json,)
    assert (0, 10000, "2026-11", True) == tuple(november[name] for name in ("used", "size", "cycle", "is_open"))
    refused = weir("pools", "--cycle", "2020-01")
    assert (2, True) == (refused.status, "2026-10" in refused.err)


def _one(folder: Path, key: str, day: str, row: str = "") -> Path:
    path = folder / f"{key}.csv"
    path.write_text(f"record_key,service,iccid,quantity,used_at\n{row or f'{key},data,{BERLIN},1,{day}T00:00:00Z'}\n")
    return path


def test_failures_end_with_2_or_3_and_say_what_to_do(weir: Weir, loaded: Path) -> None:
    """2: bad usage or configuration. 3: the world failed. Each with a message that names what is wrong."""
    usage, broken = loaded / "usage.csv", loaded / "broken.toml"
    broken.write_text('name = "x\n')
    (loaded / "folder").mkdir()
    ingest = ("ingest", "--feed", "plain", usage)
    cases: list[tuple[int, tuple[object, ...], str]] = [
        (2, ("nosuch",), "No such command"),
        (2, ("cards", "--nosuch"), "No such option"),
        (2, ("cards", "--limit", "-1"), "--limit"),
        (2, ("cards", "--limit", "many"), "--limit"),
        (2, ("cards", "--account", "nobody"), "expected an account: one of coast, rhine"),
        (2, ("cards", "--as-of", "yesterday"), "--as-of: found 'yesterday'"),
        (2, ("card", "123"), "no card with ICCID"),
        (2, ("pool", "nosuch"), "expected a pool: one of fleet"),
        (2, ("report", "--cycle", "2020-01"), "2026-10"),
        (2, ("report", "--cycle", "2026-10", "--format", "pdf"), "pdf"),
        (2, ("report",), "--cycle"),
        (2, ("explain", "nosuch"), "found no record"),
        (2, ("explain", "x1"), "rejected as bad_value"),
        (2, ("sql", "select nothing from nowhere"), "nowhere"),
        (2, ("sql", "drop view rated"), "only read"),
        (2, ("sql", "select 1", "--json", "--csv"), "expected one of them"),
        (2, ("rejected", "list", "--reason", "ugly"), "malformed"),
        (2, ("rejected", "export", "--reason", "ugly"), "malformed"),
        (2, ("rejected", "--json", "list"), "after"),
        (2, ("rejected", "replay", usage), "usage.csv:1: line"),
        (2, ("feeds", "show", "nosuch"), "cellhire"),
        (2, ("feeds", "check", broken, usage), "broken.toml"),
        (2, ("feeds", "check", "cellhire", usage), "SessionRowID"),
        (2, (*ingest, "--as-of", "2026-13-01"), "--as-of"),
        (2, ("ingest", "--feed", "nosuch", usage), "expected one of"),
        (2, ("ingest", "--feed", broken, usage), "broken.toml"),
        (2, ("ingest", usage), "--feed"),
        (2, ("apply", broken), "broken.toml"),
        (2, ("--data", loaded / "nowhere", "status"), "no data directory"),
        (2, ("--data", loaded / "new", *ingest), "weir apply"),
        (3, ("ingest", "--feed", "plain", loaded / "absent.csv"), "absent.csv"),
        (3, ("ingest", "--feed", "plain", loaded / "folder"), "directory"),
        (3, ("feeds", "check", "plain", loaded / "absent.csv"), "absent.csv"),
        (3, ("rejected", "replay", loaded / "absent.ndjson"), "absent.ndjson"),
        (3, ("rejected", "export", "--out", loaded / "no" / "such.ndjson"), "such.ndjson"),
        (2, ("--data", usage, "status"), "no data directory"),
        (3, ("report", "--cycle", "2026-10", "--out", usage), "usage.csv"),
        (3, ("generate", "--cards", 20, "--records", 50, "--out", usage), "usage.csv"),
    ]
    for status, command, said in cases:
        result = weir(*command)
        assert (status, True) == (result.status, said in result.err.replace("\n", " ")), (command, result)
    assert 7 == weir("status", "--json").json["rated_records"]


def test_a_held_directory_is_refused_with_its_holder(weir: Weir, loaded: Path) -> None:
    """While one process writes, a second writer fails with status 3 and the holder's name. A reader succeeds."""
    from pipeline.embedded.driver import Embedded

    with Embedded.open(loaded / "data", write=True):
        refused = weir("ingest", "--feed", "plain", loaded / "usage.csv")
        assert (3, True) == (refused.status, str(os.getpid()) in refused.err)
        assert 0 == weir("cards").status


def test_rejected_records_are_exported_corrected_and_replayed(weir: Weir, loaded: Path) -> None:
    """F5: what was corrected is rated and no longer open; the rest is refused again; twice moves nothing."""
    export = loaded / "export.ndjson"
    assert "exported 3 records" in weir("rejected", "export", "--out", export).err
    lines = [json.loads(line) for line in export.read_text().splitlines()]
    assert ["x1", "x2", None] == [line.get("record_key") for line in lines]
    lines[0]["raw"] = lines[0]["raw"].replace("lots", "100")
    lines[2]["raw"] = f"x3,data,{BERLIN},200,2026-10-12T12:00:00Z"
    export.write_text("\n".join(map(json.dumps, lines)))
    replay = ("rejected", "replay", export, "--as-of", AS_OF, "--json")
    first = weir(*replay).json
    assert (3, 2, 0, {"unknown_card": 1}, {"EUR": "0.3"}) == tuple(
        first[name] for name in ("records", "rated", "duplicate", "rejected", "charge")
    )
    again = weir(*replay).json
    assert (0, 2, {"unknown_card": 1}) == tuple(again[name] for name in ("rated", "duplicate", "rejected"))
    assert not (loaded / "data" / "replay").exists()
    still = weir("rejected", "list", "--open", "--json").json
    assert (True, 1, ["x2"]) == (still["only_open"], still["total"], [row["record_key"] for row in still["rows"]])
    assert 5 == weir("rejected", "list", "--json").json["total"]
    assert 1 == len(weir("rejected", "export", "--open").out.splitlines())
    places = "select source, source_row from rated where record_key in ('x1', 'x3') order by all"
    assert [("usage.csv", 10), ("usage.csv", 12)] == [tuple(row.values()) for row in weir("sql", places, "--json").json]


FEED = """
name = "{name}"
[format]
type = "{type}"
encoding = "{encoding}"
records = "{records}"
[[records]]
service = "data"
key = {key}
[records.fields]
iccid = {{ from = "iccid" }}
quantity = {{ from = "bytes", unit = "B" }}
used_at = {{ from = "at" }}
apn = {{ from = "apn" }}
"""


def _counts(result: Result) -> tuple[int, int, dict[str, int]]:
    document = result.json
    return document["rated"], document["duplicate"], document["rejected"]


def _feed(folder: Path, name: str, kind: str, key: str = '["id"]', encoding: str = "utf-8", records: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(FEED.format(name=name, type=kind, key=key, encoding=encoding, records=records))
    return path


def _document(key: str, quantity: str) -> dict[str, str]:
    return {"id": key, "iccid": BERLIN, "bytes": quantity, "at": "2026-10-12T12:00:00Z", "apn": "café"}


@pytest.mark.parametrize("kind", ["latin-1 csv", "csv without keys", "ndjson", "json"])
def test_a_feed_of_ones_own_is_replayed_as_it_was_read(weir: Weir, loaded: Path, kind: str) -> None:
    """Text in another encoding, records without keys, and records of a document all come back corrected, once."""
    header, row = "id,iccid,bytes,at,apn", f"{{}},{BERLIN},{{}},2026-10-12T12:00:00Z,café"
    csv = "\n".join([header, row.format("k1", "7"), row.format("k2", "é"), row.format("k3", "x"), ""])
    source = loaded / "own.txt"
    if kind == "latin-1 csv":
        mapping = _feed(loaded, "own", "csv", encoding="latin-1")
        source.write_bytes(csv.encode("latin-1"))
    elif kind == "csv without keys":
        mapping = _feed(loaded, "own", "csv", key="[]")
        source.write_text(csv)
    else:
        documents = [_document("k1", "7"), _document("k2", "é"), _document("k3", "x")]
        mapping = _feed(loaded, "own", kind, records="data" if kind == "json" else "")
        ndjson = "\n".join(json.dumps(one, ensure_ascii=False) for one in documents)
        nested = json.dumps({"data": documents}, ensure_ascii=False, indent=2)
        source.write_text(nested if kind == "json" else ndjson)
    ingested = weir("ingest", "--feed", mapping, source, "--as-of", AS_OF, "--json").json
    assert (1, {"bad_value": 2}) == (ingested["rated"], ingested["rejected"])
    assert "raw_base64" in weir("rejected", "export", "--feed", "own").out
    export = loaded / "export.ndjson"
    own = ("--mapping", mapping)
    weir("rejected", "export", "--feed", "own", *own, "--out", export)
    lines = [json.loads(line) for line in export.read_text().splitlines()]
    assert [True, True] == ["café" in line["raw"] for line in lines]
    lines[0]["raw"] = lines[0]["raw"].replace("é", "30", 1)
    export.write_text("\n".join(map(json.dumps, lines)))
    refused = weir("rejected", "replay", export)
    assert (2, True) == (refused.status, "--mapping" in refused.err)
    replay = ("rejected", "replay", export, *own, "--as-of", AS_OF, "--json")
    assert (1, 0, {"bad_value": 1}) == _counts(weir(*replay))
    lines[1]["raw"] = lines[1]["raw"].replace("x", "20", 1)
    export.write_text("\n".join(map(json.dumps, lines)))
    assert (1, 1, {}) == _counts(weir(*replay))
    assert (0, 2, {}) == _counts(weir(*replay))
    total = "select sum(quantity_raw)::bigint as n from rated where feed = 'own'"
    assert [{"n": 57}] == weir("sql", total, "--json").json
    assert 0 == weir("rejected", "list", "--open", "--feed", "own", "--json").json["total"]


def test_lines_that_cannot_be_replayed_are_named_before_anything_is_rated(weir: Weir, loaded: Path) -> None:
    """A line break, no text, a path, a row that is none: each is a finding of its line, and nothing is rated."""
    export = loaded / "export.ndjson"
    weir("rejected", "export", "--out", export)
    good = json.loads(export.read_text().splitlines()[0])
    good["raw"] = good["raw"].replace("lots", "1")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"raw": "a\nb"}, "raw: found a line break"),
        ({"raw": " "}, "raw: found nothing"),
        ({"source": "../x"}, "source: found '../x'"),
        ({"source_row": 1}, "source_row: found 1"),
        ({"raw_header": None}, "raw_header: found nothing"),
        ({"raw": None, "raw_base64": "*"}, "raw_base64: found"),
    ]
    export.write_text("\n".join(json.dumps(good | change) for change, _ in [({}, ""), *wrong]))
    refused = weir("rejected", "replay", export)
    assert 2 == refused.status
    for line, (_, said) in enumerate(wrong, 2):
        assert f"export.ndjson:{line}: {said}" in refused.err
    assert 7 == weir("status", "--json").json["rated_records"]


def test_explain_computes_every_charge_again(weir: Weir, loaded: Path) -> None:
    """P12: allowance, add-on, overage, pool, bands and reversals are explained, and F gives the stored charge."""
    call = f"v1,voice,{BERLIN},7200,2026-10-12T19:00:00Z"  # 21:00 to 23:00 in Berlin: an hour of each band
    header = "record_key,service,iccid,quantity,used_at,started_at,record_type,corrects_key"
    path = loaded / "more.csv"
    path.write_text(f"{header}\n{call},2026-10-12T19:00:00Z,,\nr1,data,{BERLIN},0,2026-10-12T23:00:00Z,,reverse,b2\n")
    done = weir("ingest", "--feed", "plain", path, "--as-of", "2026-10-13T06:00:00Z", "--json").json
    assert (2, {"EUR": "52.5"}) == (done["rated"], done["charge"])  # 60 x 0.6 + 60 x 0.3, less what 2,000 bytes free
    for key in ("b1", "b2", "b3", "a1", "a2", "a3", "p1", "v1"):
        agrees = {row["kind"]: row["agrees"] for row in weir("explain", key, "--json").json}
        assert agrees.pop("rerate", None) is None  # an adjustment is a difference of two charges
        assert {True} == set(agrees.values()), key
    said = {key: " ".join(weir("explain", key).out.split()) for key in ("a1", "b2", "p1", "v1")}
    assert "5000 from the allowance, 500 from add-ons" in said["a1"]
    assert "(reversal): -1 EUR" in said["b2"]  # and b3 is rated again, with what b2 left of the allowance
    assert "counter data of pool fleet went from 0 to 3000 bytes" in said["p1"]
    assert "(usage, part 1): 18 EUR" in said["v1"]
    assert "in several feeds" not in said["v1"]


def test_explain_tells_test_usage_late_usage_and_keys_of_two_feeds(weir: Weir, loaded: Path) -> None:
    """P12: test usage costs nothing, a late record names the cycle that took it, a key of two feeds needs --feed."""
    tester = "89490000000000000055"
    card = loaded / "tester.toml"
    card.write_text(
        f'[[cards]]\niccid = "{tester}"\naccount = "rhine"\nplan = "solo"\nstatus = "testing"\ntest_from = 2026-10-01\n'
    )
    assert 0 == weir("apply", card).status
    row = f"t1,data,{tester},1400,2026-10-12T12:00:00Z"
    tested = weir("ingest", "--feed", "plain", _one(loaded, "t1", "", row), "--as-of", AS_OF, "--json").json
    assert (1, {"EUR": "0"}) == (tested["rated"], tested["charge"])
    (explained,) = weir("explain", "t1", "--json").json
    assert True is explained["agrees"]
    burn = next(step["text"] for step in explained["steps"] if step["step"] == "burn")
    assert "1000 from the test allowance, 400 from the allowance" in burn
    live, until = (weir("cards", "--search", tester, *option, "--json").json for option in ((), ("--until-midnight",)))
    assert live["rows"] == until["rows"]
    late = _one(loaded, "l1", "2026-09-30")
    assert 1 == weir("ingest", "--feed", "plain", late, "--as-of", "2026-10-20", "--json").json["rated"]
    (explained,) = weir("explain", "l1", "--json").json
    assert True is explained["agrees"]
    assert "billing cycle 2026-10; its own cycle had closed" in explained["steps"][1]["text"]
    own = _feed(loaded, "own", "ndjson")
    source = loaded / "own.ndjson"
    source.write_text(json.dumps(_document("b1", "1")))
    assert 1 == weir("ingest", "--feed", own, source, "--as-of", "2026-10-20", "--json").json["rated"]
    refused = weir("explain", "b1")
    assert (2, True) == (refused.status, "--feed: own, plain" in refused.err)
    assert 1 == len(weir("explain", "b1", "--feed", "own", "--json").json)


def _run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return completed([WEIR, *map(str, arguments)], env=kept | environment)


def test_the_executable_reads_its_environment_and_writes_plainly_to_a_pipe(loaded: Path) -> None:
    """$WEIR_DATA is the data directory; a pipe gets no colours and whole rows; a mapping comes byte by byte."""
    listed = _run("cards", WEIR_DATA=str(loaded / "data"))
    assert (0, "") == (listed.returncode, listed.stderr)
    assert "\x1b" not in listed.stdout
    assert "no room" not in listed.stdout
    shown = _run("feeds", "show", "plain")
    ready = Path(cli.__file__).parents[2] / "schemas" / "feeds" / "plain.toml"
    assert ready.read_text() == shown.stdout


def test_output_that_nobody_takes_is_no_error_and_a_full_disk_is(loaded: Path) -> None:
    """A reader that goes away ends the command quietly with 0; where output has no room, it is 3 with a message."""
    environment = {**os.environ, "WEIR_DATA": str(loaded / "data")}
    for command in ("cards", "cards --json", "rejected export"):
        gone = completed(["bash", "-c", f"set -o pipefail; '{WEIR}' {command} | true"], env=environment)
        assert (0, "") == (gone.returncode, gone.stderr)
    with Path("/dev/full").open("w") as full:
        refused = completed([WEIR, "cards"], stdout=full, env=environment)
    assert (3, True) == (refused.returncode, "No space left" in refused.stderr)
    assert "Traceback" not in refused.stderr


def test_an_interrupt_ends_with_130_and_the_same_command_ends_the_work(weir: Weir, loaded: Path) -> None:
    """Ctrl-C stops without a traceback; what was committed stays, and the same command goes on."""
    source = loaded / "many.csv"
    rows = (f"m{number},data,{BERLIN},1,2026-10-12T12:00:00Z" for number in range(150_000))
    source.write_text("\n".join(["record_key,service,iccid,quantity,used_at", *rows, ""]))
    command = [WEIR, "ingest", "--feed", "plain", str(source), "--as-of", AS_OF]
    environment = {**os.environ, "WEIR_DATA": str(loaded / "data"), "WEIR_CHECKPOINT_RECORDS": "1000"}
    before = json.loads((loaded / "data" / "manifest.json").read_text())["checkpoint"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    _await_checkpoint(loaded / "data" / "manifest.json", before + 2, process)
    process.send_signal(signal.SIGINT)
    _, said = communicated(process)
    assert (130, False) == (process.returncode, "Traceback" in said)
    assert "stopped" in said
    assert 150_000 == weir("ingest", "--feed", "plain", source, "--as-of", AS_OF, "--json").json["rated"]
    assert 150_007 == weir("status", "--json").json["rated_records"]


def _await_checkpoint(manifest: Path, number: int, process: subprocess.Popen[str]) -> None:
    def last() -> int:
        return int(json.loads(manifest.read_text())["checkpoint"])

    wait_until(lambda: last() >= number, f"checkpoint {number}", last, runs=[process], pause_s=0.01)


def test_a_replay_that_was_killed_goes_on(weir: Weir, loaded: Path) -> None:
    """Killed between two checkpoints, the same replay given again ends as if nothing had happened."""
    unknown, export = "89490000000000000044", loaded / "export.ndjson"
    source = loaded / "unknown.csv"
    rows = (f"u{number},data,{unknown},1,2026-10-12T12:00:00Z" for number in range(20_000))
    source.write_text("\n".join(["record_key,service,iccid,quantity,used_at", *rows, ""]))
    refused = weir("ingest", "--feed", "plain", source, "--as-of", AS_OF, "--json").json
    assert {"unknown_card": 20_000} == refused["rejected"]
    weir("rejected", "export", "--reason", "unknown_card", "--out", export)
    card = loaded / "card.toml"
    card.write_text(f'[[cards]]\niccid = "{unknown}"\naccount = "rhine"\nplan = "solo"\n')
    assert 0 == weir("apply", card).status
    manifest = loaded / "data" / "manifest.json"
    before = json.loads(manifest.read_text())["checkpoint"]
    environment = {**os.environ, "WEIR_DATA": str(loaded / "data"), "WEIR_CHECKPOINT_RECORDS": "1000"}
    replay = ("rejected", "replay", str(export), "--as-of", AS_OF, "--json")
    process = subprocess.Popen([WEIR, *replay], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _await_checkpoint(manifest, before + 2, process)
    process.kill()
    process.wait()
    assert (loaded / "data" / "replay").exists()
    done = weir(*replay).json
    # The line of the unknown card x2 is refused again.
    assert (20_001, 20_000, 0, {"unknown_card": 1}) == tuple(
        done[name] for name in ("records", "rated", "duplicate", "rejected")
    )
    assert not (loaded / "data" / "replay").exists()
    total = f"select count(*) as n, sum(quantity_raw)::bigint as used from rated where iccid = '{unknown}'"
    assert [{"n": 20_000, "used": 20_000}] == weir("sql", total, "--json").json
