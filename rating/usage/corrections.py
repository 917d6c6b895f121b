"""Corrections: reverse or replace a rated record by key. Rows that have landed never change (F6).

A reversal takes back, in rows of its own, everything that stands of the record: its usage and its adjustments. A
replacement does so too, and its new content is rated under its own key. What this changes for other records follows
from rating again (rating.usage.rerating). A key names its newest replacement, so a record can be corrected again
and again by its own key.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import polars as pl

from rating.apply import Compiled
from rating.columnar.key_index import Ints
from rating.dedupe.digests import Prints
from rating.dedupe.seen import DAY_US, Seen
from rating.usage.accept import Accepted, accept
from schemas.usage import INSTANT, REJECT_SCHEMA, RecordType, UsageBatch

Row = dict[str, Any]

REVERSED: Final = "reversed"
REPLACED: Final = "replaced"


class StandingRecords:
    """What stands of the keys of one feed, from their rated rows (a frame with the columns of RATED).

    If a key came again after it had been forgotten, it names the newest record.
    """

    def __init__(self, rows: pl.DataFrame, feed: str) -> None:
        rows = rows.filter(feed=feed).sort("journal_offset")
        self.used_at = dict(rows.filter(kind="usage").select("record_key", "used_at").rows())
        taken = rows.filter(kind="reversal").select("record_key", "used_at", "because", "cause").unique()
        self._taken = {
            key: cause if because == REPLACED else None
            for key, used_at, because, cause in taken.rows()
            if self.used_at.get(key) == used_at
        }

    def newest(self, key: str) -> str | None:
        """Return the key of the record that `key` names: itself or its newest replacement; None if none stands."""
        passed = set[str]()
        while key in self._taken:
            passed.add(key)
            following = self._taken[key]
            if following is None or following in passed:
                return None
            key = following
        return key if key in self.used_at else None


@dataclass
class Judged:
    """The outcome of the first `count` corrections of a batch. Those after them depend on what these bring.

    `undone` names each record that is taken back: its key, the row of its correction in the batch, and why. `fresh` are
    the replacements among the accepted records of a trial, in which every record has its row number as key.
    """

    count: int = 0
    duplicates: int = 0
    rejects: list[Row] = field(default_factory=list)
    undone: list[tuple[str, int, str]] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)  # rows of the batch whose keys are known from now on

    def reject_table(self) -> pl.DataFrame:
        """Return the rejects as a frame of REJECT_SCHEMA."""
        return pl.DataFrame(self.rejects, schema=REJECT_SCHEMA)


def as_events(batch: UsageBatch) -> UsageBatch:
    """Return replacements as usage of their own."""
    return replace(batch, rows=batch.rows.with_columns(record_type=pl.lit(int(RecordType.EVENT), pl.UInt8)))


def judge(seen: Seen, compiled: Compiled, batch: UsageBatch, prints: Prints, standing: StandingRecords) -> Judged:
    """Judge corrections one after another, up to the first that corrects a replacement of this batch.

    A correction is a duplicate or a `conflict` if its key was accepted before. It is rejected as `unknown_key` if
    its key names no record that is left, and a replacement also if its new content cannot be rated. Nothing
    changes.
    """
    known, former = seen.lookup(prints.key_high, prints.key_low, batch.received_at_us // DAY_US)
    trial, refused = _trial(compiled, batch)
    content = dict[str, int]()  # of the keys that this batch has accepted
    taken, found = dict[str, bool](), Judged()
    for place, row in enumerate(batch.rows.iter_rows(named=True)):
        key, own = row["record_key"], int(prints.content[place])
        before = int(former[place]) if known[place] else content.get(key)
        if before is not None:
            if before == own:
                found.duplicates += 1
            else:
                text = "other content under a key that was accepted before; expected the same, or a new key"
                found.rejects.append(_refusal(batch, row, "conflict", "record_key", text))
            found.count += 1
            continue
        corrects = row["corrects_key"] or ""
        target = standing.newest(corrects)
        if corrects in content or taken.get(target or "") is True:
            return found
        if target is None or target in taken:
            text = f"key {corrects!r}, which names no rated record; expected one not yet reversed"
            found.rejects.append(_refusal(batch, row, "unknown_key", "corrects_key", text))
        elif place in refused:
            found.rejects.append(refused[place] | {"record_key": key})
        else:
            replaces = place in trial
            taken[target] = replaces
            content[key] = own
            found.undone.append((target, place, REPLACED if replaces else REVERSED))
            found.accepted.append(place)
        found.count += 1
    return found


def replacements(compiled: Compiled, batch: UsageBatch, places: Ints) -> Accepted:
    """Return the replacements at these rows of the batch as accepted records, with all that follows from their rows."""
    accepted = accept(Seen(), compiled, *_numbered(batch)).accepted
    return accepted.take(np.flatnonzero(np.isin(accepted.place, places)))


def _trial(compiled: Compiled, batch: UsageBatch) -> tuple[set[int], dict[int, Row]]:
    """Return the rows of replacements that can be rated, and the reject of each that cannot."""
    places = np.flatnonzero((batch.rows["record_type"] == int(RecordType.REPLACE)).fill_null(False).to_numpy())
    if not len(places):
        return set(), {}
    part = replace(batch, rows=batch.rows[places])
    outcome = accept(Seen(), compiled, *_numbered(part))
    refused = {int(places[int(row["record_key"])]): row for row in outcome.rejects.iter_rows(named=True)}
    return set(places[outcome.accepted.place].tolist()), refused


def _numbered(batch: UsageBatch) -> tuple[UsageBatch, Prints]:
    """Return a batch with its row numbers as keys, so that each record is judged by itself."""
    keys = pl.int_range(pl.len()).cast(pl.String).alias("record_key")
    numbered = as_events(replace(batch, rows=batch.rows.with_columns(keys)))
    return numbered, Prints.of(numbered)


def _refusal(batch: UsageBatch, correction: Row, reason: str, name: str, found: str) -> Row:
    row = {"source_row": correction["source_row"], "record_key": correction["record_key"]}
    return row | {"reason": reason, "field": dict(batch.labels).get(name, name), "message": f"found {found}"}


def undone_frame(judged: Judged, standing: StandingRecords, batch: UsageBatch, offset: int) -> pl.DataFrame:
    """Return the facts of each record that is taken back: its key, and what its reversal rows say of the correction.

    `offset` is the journal offset of the first row of the batch.
    """
    keys, sources = batch.rows["record_key"].to_list(), batch.rows["source_row"].to_list()
    return pl.DataFrame(
        [(key, standing.used_at[key], sources[at], offset + at, why, keys[at]) for key, at, why in judged.undone],
        schema={
            "record_key": pl.String, "used_at": INSTANT, "source_row": pl.Int64, "journal_offset": pl.Int64,
            "because": pl.String, "cause": pl.String,
        },
        orient="row",
    )  # fmt: skip
