"""What is wrong with a catalogue file is found, all of it, with its line and what would be right."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipeline.catalogue import load_catalogue
from rating.errors import CatalogueError, Finding, SourceError
from schemas.cards import Catalogue
from tests.support.compressed import zstd_frame

GOOD = """\
[[accounts]]
id = "acme"
time_zone = "Europe/Berlin"
grace_hours = 72

[[accounts]]
id = "labs"
parent = "acme"

[[zones]]
id = "roaming"
[[zones.zones]]
name = "home"
countries = ["DE"]
home = true
[[zones.zones]]
name = "eu"
countries = ["FR", "IT"]
plmns = ["22803"]

[[plans]]
id = "single"
currency = "EUR"
carrier = "north"
tier = "500MB"
voucher = "north_single_1M_v2_500MB"
cycle = { months = 1, anchor_day = 5 }
term_months = 12
[[plans.versions]]
version = 1
effective = 2026-01-01
zones = "roaming"
default_zone = "eu"
fees = [{ name = "base", amount = "3.90" }]
test = { amount = "30 MB", months = 3 }
[[plans.versions.bands]]
name = "night"
start = "22:00"
end = "06:00"
[[plans.versions.rates]]
service = "data"
zone = "home"
allowance = "500 MB"
increment = { minimum = "1 KB", step = "1 KB" }
[plans.versions.rates.price]
model = "graduated"
tiers = [
  { to = "1 GB", price = "0.02", per = "1 MB" },
  { to = "2 GB", price = "0.01", per = "1 MB" },
  { price = "0.005", per = "1 MB" },
]
[[plans.versions.rates]]
service = "voice"
direction = "mo"
band = "night"
increment = { minimum = 60, step = 1 }
price = { model = "flat", price = "0.01" }
rounding = { decimals = 4, mode = "up" }
[[plans.versions]]
version = 2
effective = 2026-07-01
rates = []

[[plans]]
id = "shared"
currency = "EUR"
type = "dynamic"
[[plans.versions]]
version = 1
effective = 2026-01-01
rates = [{ service = "data", allowance = "10 MB" }]

[[pools]]
id = "together"
account = "acme"
kind = "dynamic"
currency = "EUR"
[[pools.overage]]
service = "data"
price = { model = "package", price = "5", per = "1 GB" }

[[cards]]
iccid = "8988228066700000016"
account = "acme"
plan = "shared"
pool = "together"

[[cards]]
iccid = "8988228066700000024"
account = "acme"
plan = "single"

[[addons]]
id = "more"
iccid = "8988228066700000024"
service = "data"
amount = "100 MB"
purchased_at = 2026-10-01T00:00:00Z
expires_on = 2026-10-31
"""

STATIC = 'kind = "static"\nsize = [{ service = "data", amount = "1 GB" }]'

# What is changed in GOOD, and the findings that follow: field, and words of what was found and of what would be right.
CASES: list[tuple[str, str, list[tuple[str, str]]]] = [
    # shape
    ("grace_hours = 72", "grace_hour = 72", [("accounts.acme.grace_hour", "did you mean grace_hours?")]),
    ("grace_hours = 72", 'grace_hours = "72"', [("accounts.acme.grace_hours", 'found "72"; expected a whole number')]),
    ("grace_hours = 72", "grace_hours = true", [("accounts.acme.grace_hours", "found true; expected a whole number")]),
    ("home = true", "home = 1", [("zones.roaming.zones[0].home", "found 1; expected true or false")]),
    ('price = "0.01" }', "price = 0.01 }", [("rates[1].price.price", 'found 0.01; expected text: write "0.01"')]),
    ('price = "0.01" }', "price = 1 }", [("rates[1].price.price", 'found 1; expected text: write "1"')]),
    ('model = "flat"', 'model = "flatt"', [("rates[1].price.model", "did you mean flat?")]),
    ('model = "flat", ', "", [("rates[1].price.model", "found nothing; expected one of block, capacity")]),
    ("effective = 2026-01-01\nzones", 'effective = "2026-01-01"\nzones', [("versions[0].effective", "without quotes")]),
    ("effective = 2026-07-01\n", "effective = 2026-07-01T00:00:00Z\n", [("versions[1].effective", "a date such as")]),
    ("effective = 2026-07-01\n", "", [("versions[1].effective", "found nothing; expected a date")]),
    ('countries = ["DE"]', 'countries = "DE"', [("zones.roaming.zones[0].countries", "expected an array")]),
    ("rates = []", "rates = [1]", [("versions[1].rates[0]", "found 1; expected a table")]),
    (
        'allowance = "500 MB"',
        "allowance = true",
        [("rates[0].allowance", "text in quotes or a whole number or an array")],
    ),
    ('[[accounts]]\nid = "labs"', '[[acounts]]\nid = "labs"', [("acounts", "did you mean accounts?")]),
    # ids and references
    ('id = "labs"', 'id = "acme"', [("accounts.acme.id", "each id once: it is at"), ("parent", "below")]),
    ('id = "labs"', 'id = " labs"', [("id", "without spaces at its ends")]),
    ('parent = "acme"', 'parent = "acmee"', [("accounts.labs.parent", "did you mean acme?")]),
    ('parent = "acme"', 'parent = "labs"', [("accounts.labs.parent", "not below this one")]),
    ('zones = "roaming"', 'zones = "roming"', [("versions[0].zones", "did you mean roaming?")]),
    ('zone = "home"', 'zone = "hom"', [("rates[0].zone", "did you mean home?")]),
    ('default_zone = "eu"', 'default_zone = "ue"', [("default_zone", "one of eu, home")]),
    ('band = "night"', 'band = "nigth"', [("rates[1].band", "did you mean night?")]),
    ("rates = []", 'rates = [{ service = "sms", zone = "eu" }]', [("versions[1].rates[0].zone", "zones = the id")]),
    (
        "rates = []",
        'rates = [{ service = "sms", band = "x" }]',
        [("versions[1].rates[0].band", "plans.versions.bands")],
    ),
    ("rates = []", 'default_zone = "eu"\nrates = []', [("versions[1].default_zone", "no default zone")]),
    (
        'account = "acme"\nkind',
        'account = "amce"\nkind',
        [("account", "did you mean acme?"), ("pool", "of another account")],
    ),
    ('plan = "single"', 'plan = "singel"', [("plan", "did you mean single?")]),
    ('pool = "together"', 'pool = "togehter"', [("pool", "did you mean together?")]),
    # codes of the world
    ('"Europe/Berlin"', '"Europe/Berln"', [("accounts.acme.time_zone", "did you mean Europe/Berlin?")]),
    ('currency = "EUR"\ncarrier', 'currency = "eur"\ncarrier', [("plans.single.currency", "did you mean EUR?")]),
    ('currency = "EUR"\ncarrier', 'currency = "DEM"\ncarrier', [("plans.single.currency", "DEM was one until 2002")]),
    (
        'currency = "EUR"\n[[pools',
        'currency = "SVC"\n[[pools',
        [("pools.together.currency", "SVC was one until 2001"), ("plan", "in the currency")],
    ),
    ('currency = "EUR"\ncarrier', 'currency = "CNH"\ncarrier', [("plans.single.currency", "did you mean CNY?")]),
    ('countries = ["FR", "IT"]', 'countries = ["FR", "EU"]', [("zones[1].countries[1]", "an ISO 3166 alpha-2 code")]),
    ('countries = ["FR", "IT"]', 'countries = ["FR", "UK"]', [("zones[1].countries[1]", "did you mean GB?")]),
    ('countries = ["FR", "IT"]', 'countries = ["FR", "DE"]', [("zones[1].countries[1]", "DE is in home")]),
    ('plmns = ["22803"]', 'plmns = ["2280"]', [("zones[1].plmns[0]", "5 or 6 digits")]),
    ('name = "eu"', 'name = "eu"\nhome = true', [("zones[1].home", "one home zone: home is it")]),
    ('name = "eu"', 'name = "home"', [("zones[1].name", "a name of its own"), ("default_zone", "one of home")]),
    # versions
    (
        "version = 2",
        "version = 1",
        [("versions[1].version", "more than 1"), ("voucher", "RateVersion v2; expected v1")],
    ),
    ("effective = 2026-07-01", "effective = 2026-01-01", [("versions[1].effective", "later than 2026-01-01")]),
    ("anchor_day = 5", "anchor_day = 32", [("plans.single.cycle.anchor_day", "1 to 31")]),
    ("months = 1,", "months = 0,", [("plans.single.cycle.months", "1 to 120"), ("voucher", "1M; expected 0M")]),
    ("term_months = 12", "term_months = 0", [("plans.single.term_months", "1 or more")]),
    # figures
    ('allowance = "500 MB"', 'allowance = "500 MiBs"', [("rates[0].allowance", 'a size such as "30 MB"')]),
    ('allowance = "500 MB"', 'allowance = ["1 MB", "1 h"]', [("rates[0].allowance[1]", "a size such as")]),
    ("step = 1 }", "step = 0 }", [("rates[1].increment.step", "found 0; expected 1 or more")]),
    (
        "step = 1 }",
        "step = 1, starts = [{ start = 60, step = 1 }, { start = 30, step = 1 }] }",
        [("starts[1]", "more than 60")],
    ),
    ('{ to = "2 GB"', '{ to = "1 GB"', [("price.tiers[1].to", "where the tier before it ends")]),
    ('{ to = "2 GB", ', "{ ", [("price.tiers[1].to", "only the last one may be open")]),
    ('price = "0.02"', 'price = "0,02"', [("price.tiers[0].price", "decimal text")]),
    ('price = "0.02"', 'price = "-1"', [("price.tiers[0].price", "zero or more")]),
    ('amount = "3.90"', 'amount = "3.90 EUR"', [("fees[0].amount", "decimal text")]),
    (
        'amount = "30 MB", months = 3',
        'amount = "30 s", months = 0',
        [("test.amount", "a size"), ("test.months", "1 or")],
    ),
    ("decimals = 4", "decimals = 12", [("rates[1]", "0 to 9")]),
    ('start = "22:00"', 'start = "25:00"', [("bands[0].start", "a time")]),
    ('model = "flat", price', 'model = "free", price', [("rates[1].price.price", "none for model 'free'")]),
    ('direction = "mo"\n', 'direction = "up"\n', [("rates[1].direction", "for voice one of any, mo, mt")]),
    # one rate for each record
    (
        "rates = []",
        'rates = [{ service = "sms" }, { service = "sms", direction = "mo" }, { service = "sms" }]',
        [("versions[1].rates[2]", "a second rate for service sms, direction any")],
    ),
    (
        "rates = []",
        'rates = [{ service = "sms", counter = "c", allowance = 5 },'
        ' { service = "sms", direction = "mo", counter = "c", allowance = 6 }]',
        [("versions[1].rates[1].allowance", "the same allowance")],
    ),
    ("rates = []", 'rates = [{ service = "sms", counter = "voice" }]', [("rates[0].counter", "one service only")]),
    # vouchers
    ('"north_single_1M_v2_500MB"', '"north_single"', [("plans.single.voucher", "Carrier_PlanType_BillingCycle")]),
    ('"north_single_1M_v2_500MB"', '"north_single_1M_2_500MB"', [("plans.single.voucher", "RateVersion")]),
    (
        '"north_single_1M_v2_500MB"',
        '"south_single_1M_v2_500MB"',
        [("plans.single.voucher", "Carrier south; expected north")],
    ),
    (
        '"north_single_1M_v2_500MB"',
        '"north_dynamic_1M_v2_x"',
        [("voucher", "PlanType dynamic"), ("voucher", "PoolID x")],
    ),
    # pools
    ('currency = "EUR"\n[[pools', "[[pools", [("pools.together.currency", "found none")]),
    ('kind = "dynamic"', STATIC.replace("1 GB", "1 h"), [("pools.together.size[0].amount", "a size")]),
    ('kind = "dynamic"', 'kind = "static"', [("pools.together.size", "found no size for data")]),
    ('kind = "dynamic"', STATIC.replace("static", "dynamic"), [("pools.together.size", "as large as its members'")]),
    (
        'kind = "dynamic"',
        'kind = "dynamic"\nservices = []',
        [("services", "found none"), ("overage[0].service", "data")],
    ),
    (
        'kind = "dynamic"',
        'kind = "dynamic"\ncycle = { months = 3 }',
        [("plan", "the cycle of pool together, 3 months")],
    ),
    ('per = "1 GB" }', 'per = "1 GB" }\nzone = "home"', [("overage[0].zone", "one price everywhere")]),
    ('plan = "shared"', 'plan = "single"', [("plan", "a plan that pools")]),
    ('plan = "shared"\n', "", [("plan", "found nothing; expected a plan that pools")]),
    # add-ons
    ('"8988228066700000024"\nservice', '"8988228066700000099"\nservice', [("addons.more.iccid", "ICCID of a card")]),
    (
        '"8988228066700000024"\nservice',
        '"8988228066700000016"\nservice',
        [("addons.more.iccid", "dynamic plan shared")],
    ),
    ('amount = "100 MB"', "amount = 0", [("addons.more.amount", "1 or more")]),
    (
        "expires_on = 2026-10-31",
        "expires_on = 2026-09-01",
        [("addons.more.expires_on", "2026-10-01 or later: the local day of purchased_at")],
    ),
    ("00:00:00Z", "00:00:00", [("addons.more.purchased_at", "with its offset")]),
]


# Changes of a pool that are found at its members or rates.
ELSEWHERE: list[tuple[str, str, list[tuple[str, str]]]] = [
    (
        'kind = "dynamic"',
        'kind = "dynamic"\nservices = ["sms"]',
        [("overage[0].service", "which this pool does not share")],
    ),
    ('account = "acme"\nkind', 'account = "labs"\nkind', [("pool", "found together of another account than acme")]),
    ('currency = "EUR"\n[[pools', 'currency = "USD"\n[[pools', [("plan", "in the currency of pool together, USD")]),
]


def _name(value: object) -> str:
    return value[:40] if isinstance(value, str) else ""


def write(folder: Path, text: str, name: str = "catalogue.toml") -> Path:
    """A catalogue file of that text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def findings_of(*paths: Path, known: Catalogue | None = None) -> CatalogueError:
    """The error that loading must end in."""
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(list(paths), known)
    return caught.value


def test_the_catalogue_that_the_cases_change_is_good(tmp_path: Path) -> None:
    """Without a change, everything loads."""
    catalogue = load_catalogue([write(tmp_path, GOOD)])
    assert (2, 1, 2, 1, 1, 2) == (
        len(catalogue.accounts),
        len(catalogue.zones),
        len(catalogue.plans),
        len(catalogue.pools),
        len(catalogue.addons),
        len(catalogue.cards),
    )


def _said(folder: Path, old: str, new: str, expected: list[tuple[str, str]]) -> list[Finding]:
    """The findings after a change of GOOD, which must be those expected and no others."""
    assert old in GOOD
    findings = findings_of(write(folder, GOOD.replace(old, new, 1))).findings
    said = [str(finding) for finding in findings]
    assert len(expected) == len(said), said
    for field, words in expected:
        assert [True] == [
            field in f.field and words in str(f) for f in findings if field in f.field and words in str(f)
        ], said
    return findings


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=_name)
def test_each_mistake_is_found(tmp_path: Path, old: str, new: str, expected: list[tuple[str, str]]) -> None:
    """One mistake gives its findings and no others, the first where it was made or at the table that lacks it."""
    findings = _said(tmp_path, old, new, expected)
    text = GOOD.replace(old, new, 1)
    start = GOOD.index(old)
    changed = range(text[:start].count("\n") + 1, text[: start + len(new)].count("\n") + 2)
    line = next(finding.line for finding in findings if expected[0][1] in str(finding))
    assert line in changed or text.split("\n")[line - 1].startswith("[[")


@pytest.mark.parametrize(("old", "new", "expected"), ELSEWHERE, ids=_name)
def test_mistakes_that_show_elsewhere(tmp_path: Path, old: str, new: str, expected: list[tuple[str, str]]) -> None:
    """A change of a pool that its members or its rates do not agree with is found at these."""
    assert [True] * len(expected) == [finding.line > 0 for finding in _said(tmp_path, old, new, expected)]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Mistakes in several tables and files come together, in order of file and line, and nothing is returned."""
    one = write(
        tmp_path, GOOD.replace('"Europe/Berlin"', '"Mars"').replace('price = "0.01" }', "price = 0.01 }"), "a.toml"
    )
    two = write(tmp_path, '[[pools]]\nid = "p"\naccount = "x"\nkind = "dynamik"\n', "b.toml")
    error = findings_of(one, two)
    assert [(str(one), 3), (str(one), 57), (str(two), 4)] == [(f.file, f.line) for f in error.findings]


def test_the_text_of_an_error_is_cut_but_the_findings_are_not(tmp_path: Path) -> None:
    """The message prints 50 findings and says how many more there are; `findings` holds all."""
    error = findings_of(write(tmp_path, "".join(f'[[accounts]]\nid = "a{n}"\ntime_zone = "x"\n' for n in range(70))))
    assert 70 == len(error.findings)
    assert 51 == len(str(error).splitlines())
    assert str(error).endswith("... and 20 more findings")


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b'[[accounts]]\nid = "a\n', 2, "what is not TOML"),
        (b'[[accounts]]\nid = "a"\nid = "b"\n', 3, "what is not TOML"),
        (b'[[accounts]]\nid = "\xff"\n', 2, "byte 0xff that is not UTF-8"),
        (b'accounts = "x"\n', 1, "write [[accounts]]"),
        (b"[accounts]\nid = 3\n", 1, "write [[accounts]]"),
        (b"accounts = [1]\n", 1, "found 1; expected a table"),
        (b"x = " + b"[" * 5000 + b"]" * 5000, 0, "nested too deeply"),
        (b"x = " + b"9" * 5000, 0, "what is not TOML"),
        (b"a" + b".a" * 200_000 + b" = 1", 0, "a key of more than 100 parts"),
        (b"x = 1\n" * 700_000, 0, "put long card lists into a CSV file"),
        (b"\x1f\x8bnot gzip", 0, "damaged compressed data"),
        (gzip.compress(b"x = 1" * 100, mtime=0)[:-20], 0, "damaged compressed data"),
        (b"\x28\xb5\x2f\xfdnot zstd", 0, "damaged compressed data"),
    ],
)
def test_a_file_that_is_no_catalogue_is_a_finding(tmp_path: Path, data: bytes, line: int, words: str) -> None:
    """Whatever the bytes, the answer is a finding that names the file, and the line where there is one."""
    path = tmp_path / "catalogue.toml"
    path.write_bytes(data)
    error = findings_of(path)
    assert [(str(path), line)] == [(finding.file, finding.line) for finding in error.findings]
    assert words in str(error)


def test_a_file_that_unpacks_into_too_much_is_refused(tmp_path: Path) -> None:
    """A gzip bomb ends in a finding before it fills the memory."""
    path = tmp_path / "cards.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(513):
            file.write(bytes(1 << 20))
    assert "more than 512 MiB" in str(findings_of(path))


def test_a_line_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """A line of many megabytes ends in a finding that names it, not in many times its size of memory."""
    path = tmp_path / "cards.csv"
    path.write_bytes(b"iccid,account\n" + b"8" * ((1 << 20) + 1) + b"\n")
    error = findings_of(path)
    assert [(str(path), 2)] == [(finding.file, finding.line) for finding in error.findings]
    assert "a line of more than 1 MiB" in str(error)


def test_compressed_files_and_other_line_ends(tmp_path: Path) -> None:
    """gzip, zstd, a byte order mark and Windows line ends give the same catalogue."""
    plain = load_catalogue([write(tmp_path, GOOD)])
    windows = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    for name, data in [
        ("a.toml.gz", gzip.compress(GOOD.encode(), mtime=0)),
        ("a.toml.zst", zstd_frame(GOOD.encode())),
        ("w.toml", windows),
    ]:
        (tmp_path / name).write_bytes(data)
        assert plain.plans == load_catalogue([tmp_path / name]).plans


def test_a_name_of_another_kind_is_a_finding(tmp_path: Path) -> None:
    """Only names that say what a file is are taken."""
    assert "ends in .toml or .csv" in str(findings_of(write(tmp_path, GOOD, "catalogue.yaml")))


def test_a_file_that_cannot_be_read_is_no_finding(tmp_path: Path) -> None:
    """A missing file is the world's fault: exit status 3."""
    with pytest.raises(SourceError, match="cannot be read"):
        load_catalogue([tmp_path / "missing.toml"])


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    """References may point to later files and to what is in force."""
    cut = GOOD.index("[[plans]]")
    before, after = write(tmp_path, GOOD[:cut], "a.toml"), write(tmp_path, GOOD[cut:], "b.toml")
    known = load_catalogue([before])
    assert load_catalogue([before, after]).plans == load_catalogue([after, before]).plans
    assert load_catalogue([after], known).plans == load_catalogue([after, before]).plans
    assert "an account" in str(findings_of(after))


@pytest.mark.parametrize(
    ("old", "new", "field", "words"),
    [
        ('"Europe/Berlin"', '"Europe/Rome"', "accounts.acme.time_zone", "Europe/Berlin is in force"),
        ('currency = "EUR"\ncarrier', 'currency = "USD"\ncarrier', "plans.single.currency", "EUR is in force"),
        ("anchor_day = 5", "anchor_day = 6", "plans.single.cycle", "months 1, anchor_day 5 is in force"),
        ('allowance = "500 MB"', 'allowance = "5 MB"', "plans.single.versions[0]", "version 1 with other content"),
        (
            "version = 1\neffective = 2026-01-01\nzones",
            "version = 3\neffective = 2026-01-02\nzones",
            "versions[1].version",
            "more",
        ),
    ],
)
def test_what_is_in_force_does_not_change_under_usage(
    tmp_path: Path, old: str, new: str, field: str, words: str
) -> None:
    """Windows, currencies and plan versions that usage was rated by stay; the finding says what to do instead."""
    known = load_catalogue([write(tmp_path, GOOD)])
    assert old in GOOD
    error = findings_of(write(tmp_path, GOOD.replace(old, new, 1)), known=known)
    assert [True] == [words in str(f) for f in error.findings if field in f.field]


def test_a_version_may_be_added_and_old_ones_left_out(tmp_path: Path) -> None:
    """A file with just the new version of a plan in force is good; one that would come before it is not."""
    known = load_catalogue([write(tmp_path, GOOD)])
    text = '[[plans]]\nid = "shared"\ncurrency = "EUR"\ntype = "dynamic"\n[[plans.versions]]\nversion = 2\n'
    good = write(tmp_path, text + "effective = 2026-11-01\nrates = []\n", "good.toml")
    assert [2] == [version.version for version in load_catalogue([good], known).plans[0].versions]
    bad = write(tmp_path, text + "effective = 2025-11-01\nrates = []\n", "bad.toml")
    assert "version 1 in force is of 2026-01-01" in str(findings_of(bad, known=known))
