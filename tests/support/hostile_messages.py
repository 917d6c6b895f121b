"""Messages that a hostile writer of `usage.raw` and `commands` may send: named ones, and drawn ones without end."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline.feeds.mappings import ready_mappings
from pipeline.journal.entries import Apply, Commands, Tick
from pipeline.journal.messages import messages_of, read_message
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.mediate.partition import Lane, Mediated
from pipeline.streaming.rate.fold import PartitionFold
from pipeline.streaming.rate.output import Output
from pipeline.streaming.raw.headers import Origins, RawMessage, marker
from rating.rules.totals.cycle_and_day import BASELINE
from schemas.cards import Account, Catalogue
from schemas.choices import REASONS
from schemas.commands import Activate, Deactivate, Done
from schemas.plans import Plan, PlanVersion, Rate
from schemas.tables import TABLES
from tests.support.fold_case import SINCE, cards

AS_OF_US = 1_793_500_000_000_000
DAY_US = 86_400_000_000
TOPIC = "weir.usage.raw"
HEAD = b"record_key,service,iccid,volume_up_bytes,volume_down_bytes,used_at"
MAPPINGS = {mapping.name: mapping for mapping in ready_mappings()}
ORIGINS = Origins({"carrier.cdr": 2}, 1)
PLAN = Plan(id="p", currency="EUR", versions=(PlanVersion(version=1, effective=SINCE, rates=(Rate(service="data"),)),))
ZSTD = pa.Codec("zstd", 1)

Headers = tuple[tuple[Any, Any], ...]


def iccid(number: int) -> str:
    """The ICCID of a card of the fleet."""
    return f"8944{number:015}"


def fleet(count: int = 40) -> Catalogue:
    """Cards of eight accounts."""
    rows = ({"iccid": iccid(n), "account": f"a{n % 8}", "plan": "p"} for n in range(count))
    return Catalogue(accounts=tuple(Account(id=f"a{n}") for n in range(8)), plans=(PLAN,), cards=cards(*rows))


def line(key: str, number: int, up: object = 1000) -> bytes:
    """A record of the feed `plain`."""
    return f"{key},data,{iccid(number)},{up},0,2026-10-20T00:00:00Z".encode()


def message(value: bytes, *headers: tuple[Any, Any]) -> RawMessage:
    """A message whose headers may be of any kind."""
    return RawMessage(value, headers)


def chunk(lines: Sequence[bytes], *more: tuple[Any, Any], digest: bytes = b"00") -> RawMessage:
    """A chunk of a CSV file of the feed `plain`."""
    place = (("source", b"f.csv"), ("digest", digest), ("row", b"2"))
    return message(ZSTD.compress(b"\n".join([*lines, b""]), asbytes=True), *_plain(), *place, *more)


def packed(lines: Sequence[bytes], origin: bytes, first: int, *more: tuple[Any, Any]) -> RawMessage:
    """Single records that claim to come from `origin`, from offset `first` on."""
    place = (("origin", origin), ("span", b"%d %d" % (first, len(lines))))
    return message(ZSTD.compress(b"\n".join([*lines, b""]), asbytes=True), *_plain(), *place, *more)


def _plain() -> Headers:
    return (("feed", b"plain"), ("encoding", b"zstd"), ("csv-header", HEAD), ("form", b"lines"))


def ipc(table: pa.Table, compression: str | None = None) -> bytes:
    """The table as an Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as stream:
        stream.write_table(table)
    return sink.getvalue()


def rows(table: pa.Table, *more: tuple[Any, Any], compression: str | None = None) -> RawMessage:
    """A chunk of decoded rows."""
    place = more or (("source", b"f"), ("digest", b"00"), ("row", b"1"))
    headers = (("feed", b"1nce"), ("form", b"rows"), ("encoding", b"zstd"), *place)
    return message(ZSTD.compress(ipc(table, compression), asbytes=True), *headers)


def refused_rows(numbers: Sequence[int] = (0, 1), **columns: Any) -> pa.Table:
    """Two rows that a decoder refused, with other columns put in or over."""
    raw = {"@raw": pa.array([b"{}"] * 2, pa.binary()), "@reason": ["malformed"] * 2, "@message": ["x"] * 2}
    return pa.table({"source_row": pa.array(numbers, pa.int64())} | raw | columns)


def bomb(size: int = 64 << 20) -> RawMessage:
    """A few hundred bytes whose Arrow buffers unpack to `size` bytes."""
    text = pa.LargeStringArray.from_buffers(
        1, pa.py_buffer(np.array([0, size], "<i8").tobytes()), pa.py_buffer(bytes(size))
    )
    columns = {"source_row": pa.array([1], pa.int64()), "@raw": pa.array([b"{}"], pa.binary()), "x": text}
    return rows(pa.table(columns), compression="zstd")


# Each is one message that stopped a worker for ever, or one of the same kind.
RAW: dict[str, RawMessage] = {
    "null header": message(line("n1", 1), ("feed", b"plain"), ("csv-header", HEAD), ("traceparent", None)),
    "null feed": message(line("n1", 1), ("feed", None)),
    "header of another type": message(line("n1", 1), ("feed", "plain"), (b"x", b"y")),
    "no headers": message(b"x"),
    "no value": message(b""),
    "arrival of the year 3000": chunk([line("z1", 1)], ("as-of", b"32503680000000000")),
    "arrival of 2148": chunk([line("z1", 1)], ("as-of", b"5617000000000000")),
    "arrival in three days": chunk([line("z1", 1)], ("as-of", b"%d" % (AS_OF_US + 3 * DAY_US))),
    "single arrival in three days": message(
        line("z2", 1), ("feed", b"plain"), ("csv-header", HEAD), ("as-of", b"%d" % (AS_OF_US + 3 * DAY_US))
    ),
    "negative rows": rows(refused_rows((-5, 3))),
    "negative offsets": rows(
        refused_rows((-5, 3)), ("origin", b"carrier.cdr 0"), ("offsets", np.array([-5, 3], "<i8").tobytes())
    ),
    "offsets that wrap": rows(
        refused_rows((2**63 - 1, -(2**63))),
        ("origin", b"carrier.cdr 0"),
        ("offsets", np.array([2**63 - 1, -(2**63)], "<i8").tobytes()),
    ),
    "no raw bytes": rows(refused_rows(**{"@raw": pa.array([None, None], pa.binary())})),
    "decimal256": rows(refused_rows(x=pa.array([None, None], pa.decimal256(70, 2)))),
    "lists of length 0": rows(refused_rows(x=pa.array([[], []], pa.list_(pa.string(), 0)))),
    "metadata that is not UTF-8": rows(refused_rows().replace_schema_metadata({b"\xff": b"\xff"})),
    "any reason": rows(refused_rows(**{"@reason": ["<script>", "anything"]})),
    "a reason without a message": rows(refused_rows(**{"@message": pa.array([None, None], pa.string())})),
    "dictionaries": rows(refused_rows(x=pa.array(["a", "b"]).dictionary_encode())),
    "packed buffers": bomb(1 << 20),
    "origin commands": packed([line("e1", 1)], b"weir.commands 0", 10**17),
    "origin of nobody": packed([line("e1", 1)], b"carrier.other 0", 10**17),
    "origin of a partition that is not there": packed([line("e1", 1)], b"carrier.cdr 2", 10**17),
    "a long source": message(
        b"x", ("feed", b"plain"), ("form", b"lines"), ("source", b"\x01" * 500_000), ("digest", b"0"), ("row", b"1")
    ),
    "a wide line": chunk([b"\x01" * 760_000, line("w", 1)]),
    "a long key": chunk([line("k" * 700_000, 1)]),
    "a long key that is rejected": chunk([line("\x01" * 300_000, 1, "x")]),
    "a false marker": marker(10**15),
    "a marker that is a text": message(b"", ("catalogue", b"\xff")),
}


def bad_commands() -> dict[str, bytes]:
    """Messages of the command log that must be refused."""
    (tick,) = messages_of(Tick(AS_OF_US))
    (far,) = messages_of(Tick(AS_OF_US + 80 * 365 * DAY_US))
    (timeless,) = messages_of(Apply(fleet(2)))
    (long,) = messages_of(Commands((Deactivate(rule="r" * 300_000),), AS_OF_US))
    (wide,) = messages_of(Apply(Catalogue(accounts=(Account(id="x" * 200_000),)), AS_OF_US))
    return {
        "nothing": b"",
        "anything": b"\xff" * 99,
        "a later layout": b"WMSG\x09" + tick[5:],
        "cut off": tick[:-1],
        "a tick of a far year": far,
        "a catalogue without a time": timeless,
        "a long command": long,
        "a long id": wide,
    }


class Folding:
    """One partition without Kafka: what a worker does with messages, from the lane and the registry to the outputs."""

    def __init__(self) -> None:
        self.registry = Registry(1)
        self.lane = Lane(TOPIC, 0, self.registry, MAPPINGS, origins=ORIGINS)
        self.fold = PartitionFold(0)
        self.offset = self.raw = self.commands = 0
        assert self.command(Apply(fleet(), AS_OF_US)) is None
        self.usage(marker(0))

    def take(self, contents: Sequence[bytes]) -> list[Output]:
        """Fold messages of the journal. Those that the fences skip leave an output as well."""
        opened = []
        for content in contents:
            one = self.fold.open(self.offset, content, f"journal[0]@{self.offset}")
            assert one is not None
            opened.append(one)
            self.offset += 1
        found: list[Output] = []
        left: Sequence[Any] = opened
        while left:
            output, left = self.fold.steps(left)
            if output is None:  # corrections, and rules that start: their history is empty here
                output, left = self._with_history(left[0]), left[1:]
            found.append(output)
        return found

    def _with_history(self, one: Any) -> Output:

        return self.fold.step(one, TABLES["rated"].empty_table(), pl.DataFrame(schema=BASELINE))

    def mediate(self, *messages: RawMessage, timestamp_us: int = AS_OF_US) -> Mediated:
        """Mediate messages that follow one another. A marker of a catalogue that is not there is false."""
        numbered = [(self.raw + at, timestamp_us, one) for at, one in enumerate(messages)]
        self.raw += len(messages)
        return self.lane.take(numbered, commands_end=self.registry.next_offset)

    def usage(self, *messages: RawMessage) -> list[Output]:
        """Mediate and fold messages."""
        return self.take([content for _, content in self.mediate(*messages).journal])

    def command(self, entry: Apply | Commands | Tick | bytes) -> str | None:
        """Take a message of the command log; if it is accepted, fold its parts. Returns why it is refused."""
        content = entry if isinstance(entry, bytes) else messages_of(entry)[0]
        offset, self.commands = self.commands, self.commands + 1
        refused = self.registry.take(offset, content, AS_OF_US)
        if refused is None:
            decoded = read_message(content, "commands").entry()
            self.take(self.registry.parts(decoded, offset, offset, "weir.commands")[0])
        return refused

    @property
    def rated(self) -> int:
        """The number of records that the fold has a key of."""
        return len(self.fold.engine.state.seen)


def drawn(random: Random) -> Iterator[RawMessage]:
    """Messages without end: headers, values and forms in every combination, some of them almost right."""
    known = list(RAW.values())
    while True:
        kind = random.randrange(10)
        if kind == 0:
            yield random.choice(known)
        elif kind == 1:
            yield _changed(random.choice(known), random)
        elif kind in (2, 3):
            yield message(_value(random), *_headers(random))
        elif kind == 4:
            lines = [_line(random) for _ in range(random.randrange(1, 6))]
            yield _maybe_changed(chunk(lines, *_headers(random, 2), digest=b"%d" % random.randrange(99)), random)
        elif kind == 5:
            lines = [_line(random) for _ in range(random.randrange(1, 6))]
            yield _maybe_changed(packed(lines, random.choice(_ORIGINS), random.choice(_NUMBERS)), random)
        elif kind == 6:
            yield _maybe_changed(rows(_table(random), *_places(random)), random)
        else:
            feed = random.choice(list(MAPPINGS)).encode()
            yield message(_line(random), ("feed", feed), ("csv-header", HEAD), *_headers(random, 2))


_NUMBERS = (0, 1, 2, 7, 10**6, 2**31, 10**17, 10**18, 2**63 - 1, -1, -5)
_ORIGINS = (b"carrier.cdr 0", b"carrier.cdr 1", b"carrier.cdr 9", b"weir.commands 0", b"weir.usage.raw 0", b"x")
_NAMES = (
    "feed", "source", "digest", "row", "as-of", "encoding", "csv-header", "form", "too-long", "lists", "origin", "span",
    "offsets", "catalogue", "traceparent",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, b"", b"plain", b"1nce", b"lines", b"rows", b"zstd", b"0", b"1", b"-1", b"99999999999999999", b"\xff\xfe",
    b"5 2",
    b"%d" % AS_OF_US, b"%d" % (AS_OF_US + 2 * DAY_US), b"32503680000000000", HEAD, b"carrier.cdr 0", b"weir.commands 0",
    np.array([1, 2], "<i8").tobytes(), b"x" * 70_000, b"\x00" * 300, "text", 7,
)  # fmt: skip
_FIELDS = (
    b"data", b"sms", b"voice", b"", b"-1", b"9" * 30, b"1e300", b"NaN", b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:59Z",
    b"\xff", b'"', b"[[[[", b"{}", b"null", b"reverse", iccid(3).encode(), b"\x00", b"1", b"2026-10-20T00:00:00Z",
)  # fmt: skip


def _headers(random: Random, most: int = 6) -> Headers:
    return tuple((random.choice(_NAMES), random.choice(_VALUES)) for _ in range(random.randrange(most + 1)))


def _places(random: Random) -> Headers:
    if random.random() < 0.6:
        return ()
    return (("origin", random.choice(_ORIGINS)), ("offsets", np.array(_pair(random), "<i8").tobytes()))


def _pair(random: Random) -> list[int]:
    return [max(-(2**63), min(2**63 - 1, random.choice(_NUMBERS) + at)) for at in range(2)]


def _line(random: Random) -> bytes:
    if random.random() < 0.4:
        return line(f"k{random.randrange(10**6)}", random.randrange(45), random.choice((1, 10**15, 10**19, -1, "x")))
    if random.random() < 0.3:
        return b'{"id":"%d","iccid":%s}' % (random.randrange(99), b"[" * random.randrange(40))
    return b",".join(random.choice(_FIELDS) for _ in range(random.randrange(8)))


def _value(random: Random) -> bytes:
    value = random.choice((b"", b"{}", b"[]", b"\n\n\n", random.randbytes(random.randrange(200)), _line(random)))
    return ZSTD.compress(value, asbytes=True) if random.random() < 0.3 else value


_TYPES: tuple[pa.DataType, ...] = (
    pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.decimal128(38, 3), pa.decimal256(70, 2),
    pa.date32(),
    pa.timestamp("ns", "UTC"), pa.duration("s"), pa.string(), pa.large_string(), pa.string_view(), pa.binary(4),
    pa.list_(pa.string()), pa.list_(pa.int8(), 0), pa.struct([("a", pa.string())]), pa.map_(pa.string(), pa.int8()),
    pa.dictionary(pa.int8(), pa.string()), pa.month_day_nano_interval(),
)  # fmt: skip


def _table(random: Random) -> pa.Table:
    texts = pa.array([random.choice((None, "", "1", "x", iccid(1), "9" * 40)) for _ in range(2)], pa.string())
    columns: dict[str, Any] = {random.choice(("iccid", "id", "x", "volume.total", "@raw", "@reason")): texts}
    if random.random() < 0.4:
        columns[random.choice(("y", "@raw", "source_row", "@message"))] = pa.nulls(2, random.choice(_TYPES))
    if random.random() < 0.4:
        columns["@reason"] = pa.array([random.choice((None, "x", *REASONS)) for _ in range(2)], pa.string())
    table = refused_rows(_pair(random), **columns)
    if random.random() < 0.5:
        table = table.select([name for name in table.column_names if name not in ("@reason", "@message")])
    return table if random.random() < 0.8 else table.replace_schema_metadata({b"pandas": random.randbytes(9)})


def _maybe_changed(one: RawMessage, random: Random) -> RawMessage:
    return _changed(one, random) if random.random() < 0.3 else one


def _changed(one: RawMessage, random: Random) -> RawMessage:
    """The message with another header or other bytes; packed values are unpacked, changed and packed again."""
    headers, value = list(one.headers), bytearray(one.value)
    for _ in range(random.randrange(1, 3)):
        if headers and random.random() < 0.5:
            place = random.randrange(len(headers))
            if random.random() < 0.4:
                del headers[place]
            else:
                headers[place] = (headers[place][0], random.choice(_VALUES))
        elif value and len(value) < 10_000:
            value[random.randrange(len(value))] ^= 1 << random.randrange(8)
    return RawMessage(bytes(value), tuple(headers))


def drawn_commands(random: Random) -> Iterator[bytes]:
    """Messages of the command log without end: entries that hold, damaged ones, and anything."""
    known = list(bad_commands().values())
    entries: tuple[Any, ...] = (
        Tick(AS_OF_US),
        Tick(AS_OF_US + 1000),
        Apply(fleet(3), AS_OF_US),
        Apply(Catalogue(accounts=(Account(id="late"),)), AS_OF_US),
        Commands((Activate(rule="none"),), AS_OF_US),
        Commands((Deactivate(rule="none", key="k"),), AS_OF_US),
        Commands((Done(action_id="9.9"),), AS_OF_US),
    )
    good = [messages_of(entry)[0] for entry in entries]
    while True:
        content = bytearray(random.choice(random.choice((known, good, good))))
        if content and random.random() < 0.6:
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
            if random.random() < 0.7:
                content = bytearray(_sealed(bytes(content)))
        yield bytes(content)


def _sealed(content: bytes) -> bytes:
    """The content under a checksum that fits, as a hostile writer would send it."""
    return content[:5] + struct.pack("<I", zlib.crc32(content[9:])) + content[9:]
