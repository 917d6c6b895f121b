"""Properties of catalogue files: what is written is what is read, and whatever the bytes, the answer is a finding."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.catalogue import catalogue_from_bytes, catalogue_to_bytes, load_catalogue
from pipeline.catalogue.lines import Path as KeyPath
from pipeline.catalogue.lines import locate
from rating.catalogue.check_digits import luhn_digit
from rating.errors import CatalogueError, Finding
from schemas.cards import CARD_SCHEMA, CHANGE_SCHEMA, Account, Addon, Catalogue, Pool, PoolSize
from schemas.plans import Band, Cycle, Fee, Increment, Plan, PlanVersion, Rate, TestAllowance, Zone, ZoneSet
from tests.support.strategies.strategies import amounts, price_specs, roundings

EXAMPLES = Path(__file__).parents[2] / "examples"
_IDS = st.text("abcXYZ019-_ .é", min_size=1, max_size=8).filter(lambda text: text == text.strip())
_COUNTRIES = ["DE", "FR", "IT", "US", "CN", "JP"]
_DAYS = st.dates(dt.date(2020, 1, 1), dt.date(2030, 12, 31))


def _rates(zones: list[str], bands: list[str]) -> st.SearchStrategy[tuple[Rate, ...]]:
    rate = st.builds(
        Rate,
        service=st.just("data"),
        direction=st.sampled_from(["any", "up", "down"]),
        zone=st.sampled_from([None, *zones]),
        band=st.sampled_from([None, *bands]),
        allowance=st.integers(0, 500),
        prorate_allowance=st.booleans(),
        increment=st.builds(
            Increment, minimum=st.integers(0, 60), step=st.integers(1, 60), per=st.sampled_from(["record", "session"])
        ),
        price=price_specs().map(lambda spec: spec.price),
        rounding=roundings(),
        hard_limit=st.none() | st.integers(0, 10**6),
        sim_cap=st.none() | st.integers(0, 10**6),
    )
    return st.lists(rate, max_size=3, unique_by=lambda r: (r.service, r.direction, r.zone, r.band)).map(tuple)


@st.composite
def _versions(draw: st.DrawFn, zone_set: ZoneSet) -> tuple[PlanVersion, ...]:
    days = sorted(draw(st.sets(_DAYS, min_size=1, max_size=2)))
    versions = []
    for number, effective in enumerate(days, 1):
        zoned = draw(st.booleans())
        bands = draw(st.lists(_IDS, max_size=2, unique=True))
        zones = [zone.name for zone in zone_set.zones] if zoned else []
        versions.append(
            PlanVersion(
                version=number,
                effective=effective,
                rates=draw(_rates(zones, bands)),
                data_base=draw(st.sampled_from([1000, 1024])),
                zones=zone_set.id if zoned else None,
                default_zone=draw(st.sampled_from([None, *zones])),
                bands=tuple(Band(name=name, weight=draw(st.integers(-3, 3)), start="06:00") for name in bands),
                holidays=tuple(draw(st.lists(_DAYS, max_size=2))),
                fees=tuple(Fee(name=name, amount=draw(amounts())) for name in draw(st.sets(_IDS, max_size=2))),
                test=draw(st.none() | st.builds(TestAllowance, months=st.integers(1, 9))),
            )
        )
    return tuple(versions)


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    """Any small catalogue that is good."""
    zone_names = draw(st.lists(_IDS, max_size=3, unique=True))
    zones = tuple(
        Zone(name=name, countries=tuple(_COUNTRIES[place::3]), plmns=(f"2620{place}",), home=place == 0)
        for place, name in enumerate(zone_names)
    )
    zone_set = ZoneSet(id=draw(_IDS), zones=zones)
    accounts = [
        Account(
            id=name,
            time_zone=draw(st.sampled_from(["UTC", "Asia/Tokyo"])),
            tags=tuple(draw(st.lists(_IDS, max_size=2))),
        )
        for name in draw(st.lists(_IDS, min_size=1, max_size=3, unique=True))
    ]
    cycle = draw(st.builds(Cycle, months=st.integers(1, 12), anchor_day=st.integers(1, 31)))
    names = draw(st.lists(_IDS, min_size=2, max_size=3, unique=True))
    plans = tuple(
        Plan(
            id=name,
            currency="EUR",
            type="single" if place == 0 else "dynamic",
            cycle=cycle,
            term_months=draw(st.none() | st.integers(1, 36)),
            versions=_apart(draw(_versions(zone_set)), name),
        )
        for place, name in enumerate(names)
    )
    pools = tuple(
        Pool(id=name, account=accounts[0].id, kind="static", size=(PoolSize(service="data", amount=5),), cycle=cycle)
        for name in draw(st.lists(_IDS, max_size=2, unique=True))
    )
    cards = draw(_cards([account.id for account in accounts], plans, pools))
    single = cards.filter(pl.col("plan") == plans[0].id)["iccid"].to_list()
    addons = tuple(
        Addon(
            id=f"addon-{number}",
            iccid=iccid,
            service="data",
            amount="1 MB",
            purchased_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
            expires_on=draw(st.dates(dt.date(2026, 1, 1), dt.date(2027, 1, 1))),
            price=draw(amounts()),
        )
        for number, iccid in enumerate(single)
    )
    return Catalogue(accounts=tuple(accounts), zones=(zone_set,), plans=plans, pools=pools, addons=addons, cards=cards)


def _apart(versions: tuple[PlanVersion, ...], plan: str) -> tuple[PlanVersion, ...]:
    """Counters of their own for each rate: shared ones would have to agree on their allowance and service."""
    replace = msgspec.structs.replace
    return tuple(
        replace(
            version,
            rates=tuple(
                replace(rate, counter=f"{plan}/{version.version}/{place}") for place, rate in enumerate(version.rates)
            ),
        )
        for version in versions
    )


@st.composite
def _cards(draw: st.DrawFn, accounts: list[str], plans: tuple[Plan, ...], pools: tuple[Pool, ...]) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for number in draw(st.lists(st.integers(0, 10**10), max_size=4, unique=True)):
        body = f"8988228{number:011d}"
        pool = draw(st.sampled_from([None, *(pool.id for pool in pools)]))
        plan = plans[1].id if pool else draw(st.sampled_from([None, *(plan.id for plan in plans)]))
        custom = draw(st.dictionaries(_IDS, st.integers(-9, 9) | st.booleans() | st.text(max_size=4), max_size=2))
        rows.append(
            {
                "iccid": body + luhn_digit(body),
                "account": accounts[0] if pool else draw(st.sampled_from(accounts)),
                "imsi": draw(st.none() | st.just(f"90140{number:010d}"[:15])) if number < 10**9 else None,
                "plan": plan,
                "pool": pool,
                "plan_from": draw(st.none() | _DAYS) if plan is not None else None,
                "status": draw(st.sampled_from([None, "activated", "suspended"])),
                "term_months": draw(st.none() | st.integers(1, 24)),
                "tags": draw(st.none() | st.lists(_IDS, min_size=1, max_size=2)),
                "custom": json.dumps(custom, ensure_ascii=False, separators=(",", ":")) if custom else None,
            }
        )
    return pl.DataFrame([dict.fromkeys(CARD_SCHEMA) | row for row in rows], schema=CARD_SCHEMA)


def _toml(value: Any) -> str:
    """A value in TOML: for these, its JSON, but for dates, tables and the characters that only TOML escapes."""
    if isinstance(value, dict):
        members = (f"{_toml(name)} = {_toml(inner)}" for name, inner in value.items() if inner is not None)
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, dt.date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _written(catalogue: Catalogue) -> str:
    """A TOML file of the catalogue, its cards included."""
    dates = (dt.date, dt.datetime)
    tables: dict[str, list[dict[str, Any]]] = {
        name: [msgspec.to_builtins(entry, builtin_types=dates) for entry in getattr(catalogue, name)]
        for name in ("accounts", "zones", "plans", "pools", "addons")
    }
    tables["cards"] = [
        card | {"custom": json.loads(card["custom"]) if card["custom"] else None} for card in catalogue.cards.to_dicts()
    ]
    return "\n".join(
        f"[[{name}]]\n" + "\n".join(f"{field} = {_toml(value)}" for field, value in entry.items() if value is not None)
        for name, entries in tables.items()
        for entry in entries
    )


def _load(text: str | bytes, name: str = "catalogue.toml", known: Catalogue | None = None) -> Catalogue:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return load_catalogue([path], known)


def _same(one: Catalogue, other: Catalogue) -> bool:
    documents = all(
        getattr(one, name) == getattr(other, name) for name in ("accounts", "zones", "plans", "pools", "addons")
    )
    own, others = one.cards.select(*CARD_SCHEMA), other.cards.select(*CARD_SCHEMA)
    return documents and own.equals(others) and own.schema == others.schema


@given(catalogues())
@settings(max_examples=25)
def test_bytes_give_the_catalogue_back(catalogue: Catalogue) -> None:
    """Written for the journal and read back, a catalogue is the same, and equal ones have equal bytes."""
    data = catalogue_to_bytes(catalogue)
    again = catalogue_from_bytes(data)
    assert _same(catalogue, again)
    assert data == catalogue_to_bytes(again)


@given(catalogues())
@settings(max_examples=25)
def test_a_file_gives_the_catalogue_back(catalogue: Catalogue) -> None:
    """A good catalogue written as TOML loads as itself, alone and over itself in force."""
    text = _written(catalogue)
    loaded = _load(text)
    assert _same(catalogue, loaded)
    assert _same(catalogue, _load(text, known=loaded))


_KEYS = st.text("ab_-1 .é\"'#[", min_size=1, max_size=3)
_VALUES = st.recursive(
    st.integers() | st.booleans() | st.text("ab#\"'[]{},=\n\\ ", max_size=6) | _DAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=3), st.lists(st.dictionaries(_KEYS, _VALUES, max_size=2), max_size=3))
def test_the_locator_finds_what_the_reader_reads(table: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Every path that the standard library reads has a line, in the order of the file, and no other path has one."""
    parts = [f"{_toml(name)} = {_toml(value)}" for name, value in table.items() if name != "list"]
    for entry in entries:
        parts += ["[[list]]", *(f"{_toml(name)}.x = {_toml(value)} # [not] = 1" for name, value in entry.items())]
    text = "\n".join(parts)
    lines = locate(text)
    document = tomllib.loads(text)
    assert _paths(document) == lines.paths()
    tops = [lines.line((name,)) for name in document]
    assert sorted(tops) == tops


def _paths(value: Any, path: KeyPath = ()) -> frozenset[KeyPath]:
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found |= _paths(inner, (*path, key))
    return frozenset(found)


_PLANS = (EXAMPLES / "catalogue" / "plans.toml").read_bytes()
_CARDS = (EXAMPLES / "feeds" / "cards.csv").read_bytes()
_PIECES = st.binary(max_size=6) | st.sampled_from(
    [
        b'"',
        b"\n",
        b",",
        b"[[",
        b"]]",
        b"{",
        b"= ",
        b"\x00",
        b"\xff",
        b"1e999",
        b"inf",
        b"2026-13-01",
        b'"""',
        b";",
        b"\r",
    ]
)


@st.composite
def _damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with up to four pieces cut out, put in or replaced."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(whole)))
        whole = whole[:start] + draw(_PIECES) + whole[start + draw(st.integers(0, 12)) :]
    return whole


@given(st.one_of(_damaged(_PLANS), _damaged(_PLANS[:600]), st.binary(max_size=60)))
@settings(max_examples=100)
def test_a_damaged_catalogue_is_loaded_or_refused(data: bytes) -> None:
    """Damage never ends in anything but a catalogue or its findings, each with its file and a legal line."""
    _loaded_or_refused(data, "catalogue.toml")


@given(st.one_of(_damaged(_CARDS), st.binary(max_size=60), st.text("ic,d\n\"';\t\r", max_size=40).map(str.encode)))
@settings(max_examples=100)
def test_a_damaged_card_list_is_loaded_or_refused(data: bytes) -> None:
    """The same for card lists."""
    _loaded_or_refused(data, "cards.csv")
    _loaded_or_refused(b"iccid,account,site custom\n" + data, "cards.csv")


def _loaded_or_refused(data: bytes, name: str) -> None:
    findings: list[Finding] = []
    try:
        assert pl.Schema(CHANGE_SCHEMA) == _load(data, name).cards.schema
    except CatalogueError as error:
        findings = error.findings
        assert findings  # being refused is a good outcome, not the expected one
    ends = data.count(b"\n") + data.count(b"\r") + 1
    assert [] == [finding for finding in findings if not (finding.file.endswith(name) and 0 <= finding.line <= ends)]
