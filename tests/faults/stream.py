"""The stream that workers are disturbed under, and what an undisturbed fold makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from benchmarks.ingest import generated
from benchmarks.rules import TRIGGERS
from pipeline.catalogue import load_catalogue
from pipeline.feeds.mappings import load_mapping
from pipeline.feeds.source_file import Source
from pipeline.journal.entries import Apply, Commands, Entry
from pipeline.journal.messages import messages_of
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.mediate.partition import Lane
from pipeline.streaming.rate.fold import PartitionFold
from pipeline.streaming.rate.output import Output
from pipeline.streaming.rate.output_messages import action_messages, fill_rejected
from pipeline.streaming.raw.messages import RawMessage, chunks_of, marker, origin_of
from rating.rules.totals.cycle_and_day import BASELINE
from schemas.commands import Activate
from schemas.tables import TABLES

AS_OF_US = 1_793_491_200_000_000  # 2026-11-01
FEED = "plain"
LANES = 2  # partitions of usage.raw
RULES = 10
CHUNK_BYTES = 120_000  # small, so that there is much to disturb


@dataclass(frozen=True)
class Stream:
    """Entries for `commands`, and for each raw partition its messages.

    The accounts of one raw partition are those of other journal partitions than the accounts of the other one, so that
    each partition of the journal has one order.
    """

    partitions: int
    entries: list[Entry]
    raw: list[list[RawMessage]]
    records: int


def stream_of(folder: Path, cards: int, records: int, partitions: int) -> Stream:
    """Return a generated fleet with rules in force, its usage in chunks."""
    fleet = generated(folder, cards, records, 50, 7)
    rules = folder / "rules.toml"
    notify = 'actions = [{ sequence = 1, type = "notify", by = ["system"], text = "{iccid}: {value}" }]'
    suspend = 'actions = [{ sequence = 1, type = "suspend" }]'
    rules.write_text(
        "\n\n".join(
            f'[[rules]]\nid = "r{number}"\n{trigger}\n{suspend if number == 0 else notify}'
            for number, trigger in enumerate(TRIGGERS[:RULES])
        )
    )
    paths = [Path(fleet["catalogue"]), Path(fleet["cards_file"]), rules]
    entries: list[Entry] = [
        Apply(load_catalogue(paths), AS_OF_US),
        Commands(tuple(Activate(rule=f"r{number}") for number in range(RULES)), AS_OF_US),
    ]
    usage = Path(fleet["usage"])
    return Stream(partitions, entries, _split(usage, _registry(entries, partitions)), records)


def _registry(entries: list[Entry], partitions: int) -> Registry:
    registry = Registry(partitions)
    for content in [content for entry in entries for content in messages_of(entry)]:
        assert registry.take(registry.next_offset, content) is None
    return registry


def _split(usage: Path, registry: Registry) -> list[list[RawMessage]]:
    """Two files by the half of the journal that a line belongs to, each cut into chunks."""
    header, *lines = usage.read_bytes().splitlines(keepends=True)
    iccids = [fields[1].decode(errors="replace") if len(fields := line.split(b",")) > 1 else "" for line in lines]
    router = registry.router_at(registry.next_offset - 1)
    at = router.of_usage(pl.DataFrame({"iccid": iccids}))
    found = []
    mapping = load_mapping(FEED)
    for lane in range(LANES):
        path = usage.with_name(f"usage-{lane}.csv")
        mine = (at % LANES == lane).tolist()
        path.write_bytes(header + b"".join(line for line, own in zip(lines, mine, strict=True) if own))
        chunks = chunks_of(path, mapping, Source.of(path), AS_OF_US, limit_bytes=CHUNK_BYTES)
        found.append([message for message, _ in chunks])
    return found


@dataclass
class Expected:
    """What a stream leaves behind when nothing disturbs it: tables and folds by partition, actions by id."""

    tables: dict[int, dict[str, pa.Table]] = field(default_factory=dict)
    folds: dict[int, PartitionFold] = field(default_factory=dict)
    actions: dict[str, bytes] = field(default_factory=dict)


def expected_of(stream: Stream) -> Expected:
    """Fold the stream here, without a broker, one message after another."""
    import msgspec

    registry = _registry(stream.entries, stream.partitions)
    journal: list[list[bytes]] = [[] for _ in range(stream.partitions)]
    offset, last_catalogue = 0, -1
    for entry in stream.entries:
        for content in messages_of(entry):
            from pipeline.journal.messages import read_message

            piece = read_message(content, "commands").entry()
            for partition, contents in enumerate(registry.parts(piece, offset, offset, "weir.commands")):
                journal[partition] += contents
            last_catalogue = offset if isinstance(piece, Apply) else last_catalogue
            offset += 1
    mapping = {FEED: load_mapping(FEED)}
    raw: dict[tuple[int, int], RawMessage] = {}
    for lane_number, messages in enumerate(stream.raw):
        lane = Lane("weir.usage.raw", lane_number, registry, mapping)
        # As many markers come before as there are pieces of catalogues.
        numbered = [(place, AS_OF_US, message) for place, message in enumerate([marker(last_catalogue), *messages])]
        raw |= {(lane_number, place): message for place, _, message in numbered}
        for one in numbered:
            for partition, content in lane.take([one]).journal:
                journal[partition].append(content)
    found = Expected()
    for partition, contents in enumerate(journal):
        fold = PartitionFold(partition)
        outputs: list[Output] = []
        for place, content in enumerate(contents):
            opened = fold.open(place, content, f"journal[{partition}]@{place}")
            assert opened is not None
            # Rules start before any usage, so that the history has nothing to say.
            held = pl.DataFrame(schema=BASELINE) if opened.wants_baseline else None
            output = fold.step(opened, None, held)
            outputs.append(
                fill_rejected(output, lambda fence, rows: origin_of(raw[fence.partition, fence.offset], rows))
            )
            for _, body in action_messages(output):
                found.actions[msgspec.json.decode(body)["id"]] = body
        found.folds[partition] = fold
        found.tables[partition] = {
            name: pa.concat_tables([getattr(output, name) for output in outputs]) for name in TABLES
        }
    return found


def comparable(table: pa.Table) -> pl.DataFrame:
    """The rows of a table in an order of their own, words as text."""
    plain = [c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for c in table.itercolumns()]
    frame: Any = pl.from_arrow(pa.table(plain, names=table.column_names))
    return frame.sort([name for name, kind in frame.schema.items() if not kind.is_nested()], nulls_last=True)
