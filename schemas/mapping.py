"""How a carrier's feed becomes usage records (domain F2): the document that a mapping file holds.

A mapping names the file format, the volume mode, and one or more `RecordRule`s. Each source record becomes one usage
record of each rule whose `when` matches. `pipeline.feeds.mappings` loads and checks the document,
`pipeline.feeds.decode` reads the columns that `Mapping.sources` names, and `rating.mediation.records` turns them into
usage.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TARGETS: tuple[str, ...] = (
    "service",
    "direction",
    "record_type",
    "corrects_key",
    "iccid",
    "imsi",
    "msisdn",
    "volume_up_bytes",
    "volume_down_bytes",
    "quantity",
    "used_at",
    "started_at",
    "ended_at",
    "session_id",
    "sequence",
    "plmn",
    "country",
    "zone",
    "rat",
    "apn",
    "cell_id",
    "imei",
)
QUANTITY_TARGETS = ("volume_up_bytes", "volume_down_bytes", "quantity")
CARD_TARGETS = ("iccid", "imsi", "msisdn")
TIME_TARGETS = ("used_at", "started_at", "ended_at")

SOURCE_NAME, SOURCE_ROW, SOURCE_ELEMENT = "@source", "@row", "@element"
PSEUDO_SOURCES = (SOURCE_NAME, SOURCE_ROW, SOURCE_ELEMENT)
DOCUMENT_PREFIX = "$."  # a path of the JSON document around the record array


class _Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    pass


class Format(_Document, frozen=True):
    """What the bytes of a source are; gzip and zstd around them are found by their magic number.

    `delimiter`, `quote`, `header` and `columns` are of CSV; `records` is the path of the record array of a JSON
    document; `explode` the path of an array inside a record whose elements are records of their own.
    """

    type: Literal["csv", "ndjson", "json", "parquet", "arrow"]
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    columns: tuple[str, ...] = ()
    encoding: Literal["utf-8", "latin-1", "cp1252", "iso-8859-15"] = "utf-8"
    records: str = ""
    explode: str = ""


class Volumes(_Document, frozen=True):
    """Whether quantities are the usage of the record, or running totals of its session (F3)."""

    mode: Literal["delta", "cumulative"] = "delta"


class Condition(_Document, frozen=True):
    """A test of one source field, compared as text; every test that is given must hold."""

    field: str
    in_: tuple[str, ...] | None = msgspec.field(default=None, name="in")
    not_in: tuple[str, ...] | None = None
    present: bool | None = None


class Lookup(_Document, frozen=True):
    """A list that turns the source text into another: a CSV of that name beside the source, two of its columns."""

    file: str
    key: str
    value: str


class Field(_Document, frozen=True):
    """Where one target field comes from and how its text is read; exactly one of `from`, `join`, `value` is given."""

    from_: str | tuple[str, ...] | None = msgspec.field(default=None, name="from")
    join: tuple[str, ...] | None = None
    value: str | None = None
    separator: str = ""
    optional: bool = False
    required: bool = False
    default: str | None = None
    empty: tuple[str, ...] = ()
    pattern: str | None = None
    values: dict[str, str] | None = None
    lookup: Lookup | None = None
    unit: str | None = None
    unit_from: str | None = None
    base: Literal[1000, 1024] = 1024
    time: str | tuple[str, ...] = "iso"
    zone: str = "UTC"
    mcc: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The source paths that the text is made of, in order."""
        if self.join is not None:
            return self.join
        if self.from_ is None:
            return ()
        return (self.from_,) if isinstance(self.from_, str) else self.from_

    @property
    def label(self) -> str:
        """The name under which a rejected record names this field: its first source path."""
        return self.paths[0] if self.paths else ""

    @property
    def times(self) -> tuple[str, ...]:
        """The time formats, tried in turn."""
        return (self.time,) if isinstance(self.time, str) else self.time


class RecordRule(_Document, frozen=True):
    """One usage record out of each source record for which every condition of `when` holds.

    Its key is the texts of `key`, which must have a value, then of `key_optional`, then `key_suffix`, joined with "|".
    """

    when: Condition | tuple[Condition, ...] = ()
    service: Literal["data", "sms", "voice"] | None = None
    direction: Literal["both", "up", "down", "mo", "mt"] | None = None
    key: tuple[str, ...] = ()
    key_optional: tuple[str, ...] = ()
    key_suffix: str = ""
    fields: dict[str, Field] = {}

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions, which must hold together; none means that the rule always applies."""
        return (self.when,) if isinstance(self.when, Condition) else self.when


class Mapping(_Document, frozen=True):
    """A feed: its name in every record, its format, and the rules that make usage of it."""

    name: str
    format: Format
    records: tuple[RecordRule, ...]
    title: str = ""
    volumes: Volumes = Volumes()
    fields: dict[str, Field] = {}

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """The lists that its fields are looked up in, each once, in order."""
        fields = [field for rule in self.records for field in self.rule_fields(rule).values()]
        return tuple(dict.fromkeys(field.lookup for field in fields if field.lookup is not None))

    @property
    def cumulative(self) -> bool:
        """Whether quantities are running totals of their session (F3)."""
        return self.volumes.mode == "cumulative"

    def rule_fields(self, rule: RecordRule) -> dict[str, Field]:
        """The fields of `rule`: the common ones, overridden by its own, in the order of TARGETS."""
        merged = {**self.fields, **rule.fields}
        return {target: merged[target] for target in TARGETS if target in merged}

    def sources(self) -> dict[str, bool]:
        """Every source path that mediation reads, in order, and whether the source must have it."""
        found: dict[str, bool] = {}

        def need(path: str, required: bool) -> None:
            if path not in PSEUDO_SOURCES:
                found[path] = found.get(path, False) or required

        for rule in self.records:
            for path in rule.key:
                need(path, True)
            for path in rule.key_optional:
                need(path, False)
            for condition in rule.conditions:
                need(condition.field, True)
            for field in self.rule_fields(rule).values():
                for path in field.paths:
                    need(path, not field.optional)
                if field.unit_from is not None:
                    need(field.unit_from, not field.optional)
        return found
