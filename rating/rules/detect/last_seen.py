"""Sightings: what was last heard of each SIM, for the rules that ask for it.

A row is a card of the directory. Times are of use, not of arrival, and NEVER where nothing was heard. What is told of
a device, a cell, a radio network and a zone holds until a later report tells otherwise; a report older than the
latest one heard of its SIM tells nothing new, so batches can come out of time order. Only what some active rule needs
is kept up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash as plh
import pyarrow as pa

from rating.calendars.calendar import DAY_US
from rating.columnar.groups import Groups, distinct
from rating.columnar.key_index import Ints, KeyIndex, Words
from rating.rules.active_rule import Watch
from rating.rules.detect.traffic import Flags, Traffic
from rating.rules.firing.firings import nothing
from schemas.usage import Service

NEVER: Final = -(1 << 62)
UNKNOWN: Final = -1

# Shorter than any billing cycle, so that a cycle in which nothing was heard lies inside one silence of this length.
_QUIET_US: Final = 27 * DAY_US

HEARD: Final = {None: "seen_us", Service.DATA: "data_us", Service.SMS: "sms_us", Service.VOICE: "voice_us"}
_TEXTS: Final = ("imei", "cell", "rat", "zone")
_TOLD: Final = {"imei": "imei", "cell": "cell_id", "rat": "rat"}  # by which columns of USAGE_SCHEMA
_NULL: Final = np.uint64(0)  # in the place of the digest of a text that is null


def quiet_columns(heard: str) -> tuple[str, str]:
    """Where the last long silence of `heard` began and ended: the names of two columns."""
    stem = heard.removesuffix("_us")
    return f"{stem}_quiet_us", f"{stem}_again_us"


def needs(watches: Iterable[Watch]) -> set[str]:
    """The columns that the active rules look at."""
    found: set[str] = set()
    for watch in watches:
        trigger, rule = watch.trigger, watch.rule
        if trigger.kind == "silence":
            found.add(HEARD[trigger.service])
            if trigger.window == "cycle":
                found.update(quiet_columns(HEARD[trigger.service]))
        elif trigger.name == "imei_changed":
            found |= {"imei", "seen_us"}
        elif trigger.name == "location_changed":
            found |= {"cell", "cell_session", "seen_us"}
        if trigger.kind not in ("usage", "pool") or rule.repetition == "daily":
            # Ticks, catalogues and commands bring no record that a filter could look at.
            found.update(name for one in rule.filters for name in ("zone", "rat") if one.type == name)
    return found | ({"seen_us"} if found & set(_TEXTS) else set())


class Texts:
    """Distinct texts numbered in order of first appearance, found by digest and kept for ever."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self.index = KeyIndex()
        self.series = pl.Series([], dtype=pl.String)
        if len(texts):
            self.numbers(pl.Series(texts, dtype=pl.String))

    def __len__(self) -> int:
        return len(self.series)

    def numbers(self, texts: pl.Series, digests: Words | None = None) -> Ints:
        """int64[n]: the number of each text, new ones in order of appearance; UNKNOWN where it is null.

        `digests` are those of the texts, where they are at hand.
        """
        if digests is None:
            digests = digests_of(texts.to_frame("text"), ["text"])["text"]
        found = self.index.find(digests)
        missing = np.flatnonzero((found < 0) & (digests != _NULL))
        if len(missing):
            first = np.sort(missing[np.unique(digests[missing], return_index=True)[1]])
            self.index.insert(digests[first])
            self.series = pl.concat([self.series, texts.gather(first).alias("")], rechunk=True)
            found[missing] = self.index.find(digests[missing])
        return found

    def named(self, numbers: Ints) -> pl.Series:
        """String[n]: the texts of the numbers; null where UNKNOWN."""
        return self.series.gather(pl.Series(numbers).set(pl.Series(numbers < 0), None))


@dataclass(frozen=True)
class Reports:
    """What is told of SIMs, in journal order; int64[n] unless noted.

    `used_us` NEVER tells nothing. `service` is UNKNOWN where no service was used. `texts` are numbers of
    Sightings.texts, UNKNOWN where the report does not say, or, of the zone and where `placed`, where it is in none.
    `session` is a digest of the session, UNKNOWN for none.
    """

    card: Ints
    used_us: Ints
    service: Ints
    texts: dict[str, Ints] = field(default_factory=dict)
    session: Ints | None = None
    placed: bool = False


@dataclass(frozen=True)
class Heard:
    """What the reports of one entry said; columns of int64, one row a report.

    `before` and `after` are what was known of each text without the report and with it. `moved` are the reports that
    tell another IMEI or cell than was known, and `within` (bool[n]) those whose cell was told in the data session
    of the cell before.
    """

    reports: Reports
    before: dict[str, Ints]
    after: dict[str, Ints]
    moved: dict[str, Ints]
    within: Flags


class Sightings:
    """Columns of int64, one row a card, and the texts that some of them number."""

    def __init__(self) -> None:
        self.columns: dict[str, Ints] = {"known_us": nothing()}
        self.texts = {name: Texts() for name in _TEXTS}

    def __len__(self) -> int:
        return len(self.columns["known_us"])

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Ints:
        """int64[len], writable: one column of all cards."""
        return self.columns[name]

    def follow(self, wanted: set[str], imei: pl.Series, clock_us: int) -> None:
        """Keep up the columns `wanted` from now on, for all cards of the directory, whose catalogued IMEIs are given.

        New cards are known since `clock_us`. A column that no rule needs is dropped: what happens meanwhile is not
        followed, so nothing stale is left when a rule needs it again.
        """
        known = self.columns["known_us"]
        fresh = np.full(len(imei) - len(known), clock_us, np.int64)
        columns = {"known_us": np.concatenate([known, fresh])}
        for name in sorted(wanted):
            held = self.columns.get(name, nothing())
            rest = len(imei) - len(held)
            if name == "imei":
                added = self.texts[name].numbers(imei[len(held) :])
            else:
                added = np.full(rest, NEVER if name.endswith("_us") else UNKNOWN, np.int64)
            columns[name] = np.concatenate([held, added]) if rest else held
        self.columns = columns

    def hear(self, reports: Reports) -> Heard:
        """Move on to what the reports say; returns what they changed.

        However the reports are cut into calls, the outcome is the same.
        """
        card, used_us = reports.card, reports.used_us
        heard = Heard(reports, {}, {}, {}, np.zeros(len(card), bool))
        for service in (Service.DATA, Service.SMS, Service.VOICE):
            if HEARD[service] in self:
                at = np.flatnonzero(reports.service == service)
                self._listen(HEARD[service], card[at], used_us[at])
        told = [name for name in _TEXTS if name in self]
        if told and len(card):
            self._tell(heard, told)
        if "seen_us" in self:
            self._listen("seen_us", card, used_us)
        return heard

    def _listen(self, name: str, card: Ints, used_us: Ints) -> None:
        """The latest time heard of each card, and the last long silence where a rule looks at cycles."""
        if quiet_columns(name)[0] in self:
            self._fall_quiet(name, card, used_us)
        np.maximum.at(self[name], card, used_us)

    def _fall_quiet(self, name: str, card: Ints, used_us: Ints) -> None:
        """Note the long silences that reports end, and reports that come late into them."""
        quiet, again = (self[column] for column in quiet_columns(name))
        # Few reports do either, and only the SIMs that they are of need a closer look.
        ends = (used_us - self[name][card] >= _QUIET_US) & (used_us != NEVER)
        some = np.zeros(len(self), bool)
        some[card[ends | ((used_us < again[card]) & (used_us > quiet[card]))]] = True
        at = np.flatnonzero(some[card])
        if not len(at):
            return
        groups = Groups.of(card[at])
        used = used_us[at][groups.order]
        prior = _latest_before(groups, used, self[name][groups.keys])
        ended = _last_where((used - prior >= _QUIET_US) & (used != NEVER), groups)
        last = _lasts(groups, ended)
        opened = np.flatnonzero(last >= 0)
        quiet[groups.keys[opened]] = prior[last[opened]]
        again[groups.keys[opened]] = used[last[opened]]
        # A report that comes late into the silence ends its beginning later.
        inside = (np.arange(len(used)) > last[groups.segment]) & (used < again[groups.keys][groups.segment])
        np.maximum.at(quiet, groups.keys[groups.segment[inside]], used[inside])

    def _tell(self, heard: Heard, names: list[str]) -> None:
        reports = heard.reports
        groups = Groups.of(reports.card)
        used = reports.used_us[groups.order]
        news = (used >= _latest_before(groups, used, self["seen_us"][groups.keys])) & (used != NEVER)
        sessions = reports.session[groups.order] if reports.session is not None else np.full(len(used), UNKNOWN)
        for name in names:
            values = reports.texts[name][groups.order]
            says = news if name == "zone" and reports.placed else news & (values >= 0)
            before, after = _carried(groups, says, values, self[name][groups.keys])
            if name == "cell":
                was, now = _carried(groups, says, sessions, self["cell_session"][groups.keys])
                heard.within[groups.order] = (was == now) & (now != UNKNOWN)
                self["cell_session"][groups.keys] = _lasts(groups, now)
            self[name][groups.keys] = _lasts(groups, after)
            heard.before[name], heard.after[name] = groups.scatter(before), groups.scatter(after)
            heard.moved[name] = np.sort(groups.order[says & (before >= 0) & (before != after)])

    def reports_of(self, traffic: Traffic, zones: Sequence[str]) -> Reports:
        """What the records of a batch tell; `zones` are the names that Traffic.zone points to."""
        rows, count = traffic.rows, len(traffic)
        unknown = np.full(count, UNKNOWN, np.int64)
        told = {name: column for name, column in _TOLD.items() if name in self and column in rows.columns}
        in_session = "cell" in told and "session_id" in rows.columns
        digests = digests_of(rows, [*told.values(), *(["session_id"] if in_session else [])])
        texts = {name: unknown for name in _TOLD if name in self}
        texts |= {name: self.texts[name].numbers(rows[column], digests[column]) for name, column in told.items()}
        session = sessions_of(digests["session_id"]) if in_session else None
        if "zone" in self:
            shown = traffic.zone[np.sort(np.unique(traffic.zone, return_index=True)[1])]
            shown = shown[shown >= 0]
            number = np.full(len(zones) + 1, UNKNOWN, np.int64)  # the last one is what -1 points to
            number[shown] = self.texts["zone"].numbers(pl.Series([zones[one] for one in shown], dtype=pl.String))
            texts["zone"] = number[traffic.zone]
        return Reports(traffic.card, traffic.used_us, traffic.service, texts, session, placed=True)

    def to_tables(self) -> dict[str, pa.Table]:
        """`rule_sightings`: the columns (int64, a row a card); `rule_texts`: `kind` and `text`, in numbered order."""
        texts = pl.concat(
            [self.texts[name].series.alias("text").to_frame().with_columns(kind=pl.lit(name)) for name in _TEXTS]
        ).select("kind", "text")
        return {
            "rule_sightings": pa.table(self.columns),
            "rule_texts": texts.to_arrow(compat_level=pl.CompatLevel.oldest()),
        }

    @classmethod
    def from_tables(cls, tables: Mapping[str, pa.Table]) -> Sightings:
        """The sightings that `to_tables` wrote."""
        sightings = cls()
        columns = tables["rule_sightings"]
        sightings.columns = {name: np.array(columns[name].to_numpy()) for name in columns.column_names}
        texts = pl.from_arrow(tables["rule_texts"])
        assert isinstance(texts, pl.DataFrame)
        for name in _TEXTS:
            sightings.texts[name].numbers(texts.filter(pl.col("kind") == name)["text"])
        return sightings


def digests_of(rows: pl.DataFrame, columns: Sequence[str]) -> dict[str, Words]:
    """Digests of the texts of each column, uint64[n]; 0 where there is none."""
    if not columns:
        return {}
    found = rows.select(plh.col(name).nchash.xxh3_64().fill_null(int(_NULL)) for name in columns)
    return {name: found[name].to_numpy() for name in columns}


def sessions_of(digests: Words) -> Ints:
    """int64[n]: what stands for the session of each record by the digest of its id, UNKNOWN for none."""
    return np.where(digests == _NULL, UNKNOWN, digests.view(np.int64))


def _lasts(groups: Groups, values: npt.NDArray[np.int64]) -> Ints:
    """int64[g]: the last of each group's values, which are in group order."""
    lasts: Ints = values[np.append(groups.starts[1:], len(groups.order)) - 1]
    return lasts


def _last_where(chosen: Flags, groups: Groups) -> Ints:
    """int64[n] in group order: the latest place of the group up to each row that is chosen, -1 where there is none."""
    place = np.maximum.accumulate(np.where(chosen, np.arange(len(chosen)), -1))
    return np.where(place >= groups.starts[groups.segment], place, -1)


def _carried(groups: Groups, says: Flags, values: Ints, held: Ints) -> tuple[Ints, Ints]:
    """Two int64[n] in group order: what holds before each row and after it.

    `held[g]` holds at first, and then the value of the latest row that `says` so.
    """
    last = _last_where(says, groups)
    after = np.where(last >= 0, values[last], held[groups.segment])
    before = np.empty_like(after)
    before[1:] = after[:-1]
    before[groups.starts] = held
    return before, after


def _latest_before(groups: Groups, used: Ints, held: Ints) -> Ints:
    """int64[n] in group order: the largest of the group's values before each row, what was held included."""
    low = int(used.min())
    shifted = np.empty_like(used)
    shifted[1:] = used[:-1]
    shifted[groups.starts] = np.maximum(held, low - 1)  # of what is below all others the rank alone counts
    span = int(shifted.max()) - low + 2
    if span * (len(groups.starts) + 1) < 1 << 62:
        # A group's number on top of the values makes one running maximum serve all groups.
        base = groups.segment * span - (low - 1)
        latest = np.maximum.accumulate(base + shifted) - base
    else:
        found, rank = distinct(shifted)
        base = groups.segment * len(found)
        latest = found[np.maximum.accumulate(base + rank) - base]
    return np.where(latest < low, held[groups.segment], latest)
