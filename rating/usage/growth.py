"""Growth: convert cumulative volumes to deltas, and find gaps between partial records (F3).

The volumes of a cumulative feed are running totals of a session (or of a billing cycle, for cycle-to-date totals).
Usage is the growth since the report before it, in order of use. A total that falls has restarted, and is usage as a
whole, unless its counter is known to begin again at 0 when it is full. Up and down are followed each for itself. A
report after a stop, or with another start of the session, belongs to another session and is usage as a whole.

A report that comes late is put at its place among the newest reports of its session (REPORTS). It counts what it adds
to their growth: its own, and the difference that it makes to that of the report after it. So a session comes to the
same total in any order of arrival, as long as late reports find their place (T6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from rating.columnar.groups import Groups
from rating.columnar.key_index import Flags, Ints
from rating.usage.sessions import REPORT, REPORTS, Sessions
from schemas.usage import RecordType

_UNKNOWN = -1
Columns = dict[str, Ints]


@dataclass(frozen=True)
class Deltas:
    """The growth of each record of a batch, int64[n], and a row of `gaps` for each run of missing partials.

    Columns of gaps: place (row in the batch), after_sequence, before_sequence, missing (number of partials; negative if
    the record is one that was missing). All are int64. Without sequence numbers they are null.
    """

    quantity: Ints
    up: Ints  # -1 if the record gives no direction
    down: Ints
    gaps: pl.DataFrame


def deltas(sessions: Sessions, session: Ints, rows: pl.DataFrame, counter_bits: int = 0) -> Deltas:
    """Convert the cumulative values of a batch to growth, and remember the newest reports of each session.

    `session[n]` is the row of each record's session. `rows` is the usage of the records, in journal order. Counters
    begin again at 0 after 2**`counter_bits` - 1; 0 means that they do not.
    """
    groups = Groups.of(session)
    own = {name: values[groups.order] for name, values in _reports(rows).items()}
    columns = dict(own)
    before = _before(sessions, groups, columns)
    grown = _grown(columns, before, counter_bits)
    for name in ("up", "down"):
        grown[name][own[name] < 0] = _UNKNOWN
    late = np.unique(groups.segment[_is_late(columns, before)])
    in_order = np.ones(len(groups.keys), np.bool_)
    in_order[late] = False
    ends = np.append(groups.starts[1:], len(session))
    for group in late.tolist():
        part = slice(int(groups.starts[group]), int(ends[group]))
        timeline = _Timeline(sessions, int(groups.keys[group]), counter_bits)
        reports = zip(*(own[name][part].tolist() for name in REPORT), strict=True)
        for position, report in enumerate(reports, part.start):
            for name, value in zip(_GROWN, timeline.add(SessionReport(*report)), strict=True):
                grown[name][position] = value
        timeline.save()
    _remember(sessions, groups, columns, in_order)
    return _in_batch_order(groups, grown)


def sequence_gaps(sessions: Sessions, session: Ints, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the missing partials (Deltas.gaps) among the numbered records of a feed of deltas, and remember them.

    `rows` is the usage of these records. What starts and ends a record of deltas is no start of its session.
    """
    columns = [name for name in ("used_at", "sequence", "record_type") if name in rows.columns]
    return deltas(sessions, session, rows.select(*columns, quantity=pl.lit(0, pl.Int64))).gaps


_GROWN = ("quantity", "up", "down", "after_sequence", "before_sequence", "missing")


def _in_batch_order(groups: Groups, grown: Columns) -> Deltas:
    quantity, up, down = (groups.scatter(grown[name]) for name in _GROWN[:3])
    at = np.flatnonzero(grown["missing"])
    gaps = pl.DataFrame({"place": groups.order[at]} | {name: grown[name][at] for name in _GROWN[3:]})
    known = [pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name) for name in _GROWN[3:5]]
    return Deltas(quantity, up, down, gaps.with_columns(known).sort("place"))


def _reports(rows: pl.DataFrame) -> Columns:
    """Return the columns of REPORT, int64[n] each."""

    def column(name: str) -> Ints:
        if name not in rows.columns:
            return np.full(len(rows), _UNKNOWN, np.int64)
        return rows[name].to_physical().cast(pl.Int64).fill_null(_UNKNOWN).to_numpy()

    return {
        "us": column("used_at"),
        "sequence": column("sequence"),
        "quantity": column("quantity"),
        "up": column("volume_up_bytes"),
        "down": column("volume_down_bytes"),
        "start": column("started_at"),
        "stop": (column("record_type") == int(RecordType.STOP)).astype(np.int64),
    }


def _before(sessions: Sessions, groups: Groups, columns: Columns) -> Columns:
    """Return what the report before each one said, if all come in order, and complete `columns` by it.

    A report that does not say when its session started has the start of the one before it. One without volumes up and
    down keeps those of the one before it, unless the total has restarted. All is in group order.
    """
    first = np.zeros(len(groups.order), np.bool_)
    first[groups.starts] = True
    newest = {name: sessions[f"{name}_0"][groups.keys] for name in REPORT}
    before: Columns = {}

    def shift(name: str) -> None:
        shifted = np.roll(columns[name], 1)
        shifted[groups.starts] = newest[name]
        before[name] = shifted

    def carry(name: str, fixed: Flags) -> None:
        values = np.where(first & ~fixed & (columns[name] < 0), newest[name][groups.segment], columns[name])
        known = fixed | first | (values >= 0)
        columns[name] = values[np.maximum.accumulate(np.where(known, np.arange(len(values)), 0))]

    carry("start", np.zeros(len(first), np.bool_))
    for name in ("us", "sequence", "quantity", "start", "stop"):
        shift(name)
    anew = _anew(columns, before)
    fallen = anew | (columns["quantity"] < before["quantity"])
    for name in ("up", "down"):
        carry(name, fallen)
        shift(name)
    return before


def _anew(columns: Columns, before: Columns) -> Flags:
    """Return whether each report belongs to another session than the one before it."""
    anew: Flags = before["stop"] == 1
    anew |= (columns["start"] >= 0) & (before["start"] >= 0) & (columns["start"] != before["start"])
    return anew


def _is_late(columns: Columns, before: Columns) -> Flags:
    """Return whether each report is older than the one before it; a session that numbers anew later is not."""
    numbered = (columns["sequence"] >= 0) & (before["sequence"] >= 0)
    same = (columns["us"] == before["us"]) & (~numbered | (columns["sequence"] == before["sequence"]))
    ordered = np.where(
        numbered,
        (columns["sequence"] <= before["sequence"]) & (columns["us"] <= before["us"]),
        columns["us"] < before["us"],
    )
    started = (columns["start"] >= 0) & (before["start"] >= 0) & (columns["start"] != before["start"])
    tied = np.where(
        started, columns["start"] < before["start"], (before["stop"] == 0) & (columns["quantity"] < before["quantity"])
    )
    late: Flags = (before["us"] >= 0) & np.where(same, tied, ordered)
    return late


def _grown(columns: Columns, before: Columns, counter_bits: int) -> Columns:
    """Return the growth of each report since the one before it, and the partials that are missing between them."""
    anew = _anew(columns, before)
    full = 1 << counter_bits

    def growth(now: Ints, earlier: Ints) -> Ints:
        grown = np.where(anew | (earlier < 0) | (now < earlier), now, now - earlier)
        if counter_bits == 32:
            over = now - earlier + full
            wraps = ~anew & (now < earlier) & (earlier < full) & (over < full // 2)
            grown = np.where(wraps, over, grown)
        return np.where(now < 0, _UNKNOWN, grown)

    ways = {name: growth(columns[name], before[name]) for name in ("up", "down")}
    apart = ~anew
    for report in (before, columns):
        apart &= (report["up"] >= 0) & (report["down"] >= 0) & (report["quantity"] == report["up"] + report["down"])
    quantity = np.where(apart, ways["up"] + ways["down"], growth(columns["quantity"], before["quantity"]))
    numbered = ~anew & (columns["sequence"] >= 0) & (before["sequence"] >= 0)
    missing = np.where(numbered, np.maximum(columns["sequence"] - before["sequence"] - 1, 0), 0)
    sequences = {"after_sequence": before["sequence"], "before_sequence": columns["sequence"].copy()}
    return {"quantity": quantity, **ways, **sequences, "missing": missing}


def _remember(sessions: Sessions, groups: Groups, columns: Columns, chosen: Flags) -> None:
    """Remember the newest reports of the chosen groups, whose reports came in order."""
    counts = np.diff(np.append(groups.starts, len(groups.order)))
    age = (groups.starts + counts - 1)[groups.segment] - np.arange(len(groups.order))
    kept = np.flatnonzero(age < REPORTS)
    keys = groups.keys[chosen]
    for name in REPORT:
        held = np.stack([sessions[f"{name}_{place}"][groups.keys] for place in range(REPORTS)], axis=1)
        moved = np.arange(REPORTS) - counts[:, None]
        newest = np.take_along_axis(held, np.maximum(moved, 0), axis=1)
        newest[groups.segment[kept], age[kept]] = columns[name][kept]
        for place in range(REPORTS):
            sessions[f"{name}_{place}"][keys] = newest[chosen, place]
    sessions["reports"][keys] = np.minimum(sessions["reports"][keys] + counts[chosen], REPORTS + 1)


class SessionReport(NamedTuple):
    """A report of a session, with the columns of REPORT."""

    us: int
    sequence: int
    quantity: int
    up: int
    down: int
    start: int
    stop: int


class _Timeline:
    """The newest reports of one session in order of use, one at a time. It is slow, and used if a report is late."""

    def __init__(self, sessions: Sessions, row: int, counter_bits: int) -> None:
        self._sessions, self._row, self._full = sessions, row, 1 << counter_bits if counter_bits == 32 else 0
        self._count = int(sessions["reports"][row])
        kept = range(min(self._count, REPORTS) - 1, -1, -1)
        reports = (SessionReport(*(int(sessions[f"{name}_{age}"][row]) for name in REPORT)) for age in kept)
        self._reports = [report for report in reports if report.us >= 0]

    def add(self, report: SessionReport) -> tuple[int, int, int, int, int, int]:
        """Put a report at its place. Returns the columns of _GROWN: its growth, and the gap that it opens or closes."""
        at = len(self._reports)
        while at and _older(report, self._reports[at - 1]):
            at -= 1
        own = report
        report = self._completed(report, at)
        unplaced = at == 0 and self._count > REPORTS
        after = self._reports[at] if at < len(self._reports) else None
        if unplaced and after is not None:
            return self._unplaced(own, report, after)
        before = self._reports[at - 1] if at else None
        quantity, up, down, missing = self._step(before, report)
        sequences = (before.sequence if before else _UNKNOWN), report.sequence
        if after is not None:
            later, instead = self._step(report, after), self._step(before, after)
            quantity, up, down = (
                max(value + now - then, 0)
                for value, now, then in zip((quantity, up, down), later[:3], instead[:3], strict=True)
            )
            missing += later[3] - instead[3]
            sequences = (before.sequence if before and missing < 0 else report.sequence), after.sequence
        self._reports.insert(at, report)
        del self._reports[:-REPORTS]
        self._count = min(self._count + 1, REPORTS + 1)
        return quantity, up if own.up >= 0 else _UNKNOWN, down if own.down >= 0 else _UNKNOWN, *sequences, missing

    def save(self) -> None:
        """Write the reports back to the session."""
        for age, report in enumerate(reversed(self._reports)):
            for name, value in zip(REPORT, report, strict=True):
                self._sessions[f"{name}_{age}"][self._row] = value
        self._sessions["reports"][self._row] = self._count

    def _completed(self, report: SessionReport, at: int) -> SessionReport:
        """Return the report with what it does not say, from the one before its place."""
        if not at:
            return report
        before = self._reports[at - 1]
        if report.start < 0:
            report = report._replace(start=before.start)
        if _apart(before, report) or report.quantity < before.quantity:
            return report
        return report._replace(
            up=before.up if report.up < 0 else report.up, down=before.down if report.down < 0 else report.down
        )

    def _unplaced(
        self, own: SessionReport, report: SessionReport, after: SessionReport
    ) -> tuple[int, int, int, int, int, int]:
        """Return no growth for a report older than all that are remembered, and a gap if usage may be missing.

        Within a run of growing totals nothing is missing, because the report after it has counted it.
        """
        same = not _apart(report, after) and report.quantity <= after.quantity
        ways = (0 if own.up >= 0 else _UNKNOWN), (0 if own.down >= 0 else _UNKNOWN)
        return 0, *ways, report.sequence, after.sequence, 0 if same else 1

    def _step(self, before: SessionReport | None, report: SessionReport) -> tuple[int, int, int, int]:
        """Return the growth of quantity, up and down from one report to the next, and the partials between them."""
        if before is None or _apart(before, report):
            return report.quantity, max(report.up, 0), max(report.down, 0), 0
        up, down = (self._growth(*pair) for pair in ((before.up, report.up), (before.down, report.down)))
        if all(min(one.up, one.down) >= 0 and one.quantity == one.up + one.down for one in (before, report)):
            quantity = up + down
        else:
            quantity = self._growth(before.quantity, report.quantity)
        numbered = before.sequence >= 0 and report.sequence >= 0
        return quantity, up, down, max(report.sequence - before.sequence - 1, 0) if numbered else 0

    def _growth(self, before: int, now: int) -> int:
        if now < 0:
            return 0
        if before < 0 or now >= before:
            return now - max(before, 0)
        over = now - before + self._full
        return over if before < self._full and over < self._full // 2 else now


def _apart(before: SessionReport, report: SessionReport) -> bool:
    """Return whether two consecutive reports belong to two sessions."""
    return before.stop == 1 or (before.start >= 0 and report.start >= 0 and before.start != report.start)


def _older(report: SessionReport, other: SessionReport) -> bool:
    """Return whether a report belongs before another; as `_is_late` does for columns."""
    numbered = report.sequence >= 0 and other.sequence >= 0
    if report.us == other.us and (not numbered or report.sequence == other.sequence):
        if report.start >= 0 and other.start >= 0 and report.start != other.start:
            return report.start < other.start
        return other.stop == 0 and report.quantity < other.quantity
    if numbered:
        return report.sequence <= other.sequence and report.us <= other.us
    return report.us < other.us
