"""Mapping of a carrier's feed to usage records (domain F2): the structure of a mapping file.

A mapping names the file format, the volume mode, and one or more `RecordRule`s. Each source record gives one usage
record for each rule whose conditions (`when`) are true. `pipeline.feeds.mappings` loads and checks the mapping,
`pipeline.feeds.decode` reads the columns that `Mapping.sources` names, and `rating.mediation.records` converts them to
usage records.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from schemas.document import Document

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
SWAPPED_TARGETS = ("iccid", "imsi", "msisdn", "imei", "plmn")  # numbers that networks write in swapped pairs of digits
SOURCE_CELL = "@cell"  # of `unit_from`: the unit is in the cell, behind the number
DOCUMENT_PREFIX = "$."  # a path of the JSON document around the record array


class Format(Document, frozen=True):
    """File format of a source. gzip and zstd compression is detected by its magic number.

    `delimiter`, `quote`, `header`, `skip_lines` (lines above the header) and `columns` apply to CSV. `records` is the
    path of the record array in a JSON document. `explode` is the path of an array inside a record; each of its elements
    is a record of its own. `binary` says how columns of bytes (Parquet, Arrow) become text. Lines of a CSV that match
    the regular expression `footer` are no records. Its groups `records`, `quantity` and so on are totals of the file.
    """

    type: Literal["csv", "ndjson", "json", "parquet", "arrow"]
    delimiter: str = ","
    quote: str = '"'
    header: bool = True
    skip_lines: int = 0
    footer: str | None = None
    columns: tuple[str, ...] = ()
    encoding: Literal["utf-8", "latin-1", "cp1252", "iso-8859-15"] = "utf-8"
    records: str = ""
    explode: str = ""
    binary: Literal["text", "hex"] = "text"


class Volumes(Document, frozen=True):
    """Volume mode: a quantity is the usage of the record ("delta") or a running total of its session (F3).

    A running total of `counter_bits` begins again at 0 when it is full. Without it, a total that falls has restarted.
    """

    mode: Literal["delta", "cumulative"] = "delta"
    counter_bits: Literal[32, 64] | None = None


class Numbers(Document, frozen=True):
    """How numbers are written: the decimal separator, the separators of thousands, base 10 or 16.

    A mapping without `Numbers` reads plain decimal text, and refuses a text that has two readings.
    """

    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", " ", "'"] | tuple[Literal[".", ",", " ", "'"], ...] = ""
    radix: Literal[10, 16] = 10

    @property
    def separators(self) -> tuple[str, ...]:
        """The separators of thousands, each of which a number may use."""
        return ((self.thousands,) if self.thousands else ()) if isinstance(self.thousands, str) else self.thousands


class Plus(Document, frozen=True):
    """A second source of one quantity. It adds its number `times` so many whole units, such as gigawords of 2^32."""

    from_: str = msgspec.field(name="from")
    times: int = 1


class Condition(Document, frozen=True):
    """Tests of one source field, compared as text. The condition is true if every given test is true."""

    field: str
    in_: tuple[str, ...] | None = msgspec.field(default=None, name="in")
    not_in: tuple[str, ...] | None = None
    present: bool | None = None


class Lookup(Document, frozen=True):
    """A lookup list that replaces the source text: the CSV `file` and its columns `key` and `value`."""

    file: str
    key: str
    value: str


class Field(Document, frozen=True):
    """Source of one target field, and how its text is read. Exactly one of `from`, `join` and `value` is given."""

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
    numbers: Numbers | None = None
    plus: Plus | tuple[Plus, ...] = ()
    swapped: bool = False
    time: str | tuple[str, ...] = "iso"
    zone: str = "UTC"
    mcc: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The source paths that form the text, in order; empty for a constant `value`."""
        if self.join is not None:
            return self.join
        if self.from_ is None:
            return ()
        return (self.from_,) if isinstance(self.from_, str) else self.from_

    @property
    def parts(self) -> tuple[Plus, ...]:
        """The further sources that add to the quantity."""
        return (self.plus,) if isinstance(self.plus, Plus) else self.plus

    @property
    def label(self) -> str:
        """The name of this field in a rejected record: its first source path, or "" if it has none."""
        return self.paths[0] if self.paths else ""

    @property
    def times(self) -> tuple[str, ...]:
        """The time formats, in the order in which they are tried."""
        return (self.time,) if isinstance(self.time, str) else self.time


class RecordRule(Document, frozen=True):
    """Rule that makes one usage record from each source record for which every condition of `when` is true.

    The record key joins with "|": the texts of `key`, which must have a value, those of `key_optional`, and
    `key_suffix`. Without `key`, it joins with ":" the source name, the row and, in an exploded record, the element.
    """

    when: Condition | tuple[Condition, ...] = ()
    service: Literal["data", "sms", "voice"] | None = None
    direction: Literal["both", "up", "down", "mo", "mt"] | None = None
    key: tuple[str, ...] = ()
    key_optional: tuple[str, ...] = ()
    key_suffix: str = ""
    fields: dict[str, Field] = msgspec.field(default_factory=dict)

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The conditions, all of which must be true. Without any, the rule always applies."""
        return (self.when,) if isinstance(self.when, Condition) else self.when


class Mapping(Document, frozen=True):
    """Mapping of one feed: its name, its format, and the rules that make usage records from it."""

    name: str
    format: Format
    records: tuple[RecordRule, ...]
    title: str = ""
    volumes: Volumes = Volumes()
    numbers: Numbers | None = None
    fields: dict[str, Field] = msgspec.field(default_factory=dict)

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """The lookup lists that the fields use, each once, in order of first use."""
        fields = [field for rule in self.records for field in self.rule_fields(rule).values()]
        return tuple(dict.fromkeys(field.lookup for field in fields if field.lookup is not None))

    @property
    def cumulative(self) -> bool:
        """True if quantities are running totals of their session (F3)."""
        return self.volumes.mode == "cumulative"

    @property
    def counter_bits(self) -> int:
        """Bits of the counters of running totals; 0 if a total that falls has restarted."""
        return self.volumes.counter_bits or 0

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Pairs of target and source field, for the targets that one source field gives in every block.

        The source fields of the record key are joined with "|".
        """
        found: dict[str, set[str]] = {}
        for rule in self.records:
            found.setdefault("record_key", set()).add("|".join(rule.key))
            for target, field in self.rule_fields(rule).items():
                found.setdefault(target, set()).add(field.label)
        return tuple((target, min(names)) for target, names in found.items() if len(names) == 1 and "" not in names)

    def rule_fields(self, rule: RecordRule) -> dict[str, Field]:
        """Return the fields of `rule` in the order of TARGETS: the common fields, overridden by its own.

        A field that does not say how its numbers are written has the `numbers` of the mapping.
        """
        merged = {**self.fields, **rule.fields}
        fields = {target: merged[target] for target in TARGETS if target in merged}
        if self.numbers is None:
            return fields
        return {
            target: field if field.numbers is not None else msgspec.structs.replace(field, numbers=self.numbers)
            for target, field in fields.items()
        }

    def sources(self) -> dict[str, bool]:
        """Return every source path that mediation reads, in order, and whether the source must have it."""
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
                for part in field.parts:
                    need(part.from_, not field.optional)
                if field.unit_from is not None and field.unit_from != SOURCE_CELL:
                    need(field.unit_from, not field.optional)
        return found
