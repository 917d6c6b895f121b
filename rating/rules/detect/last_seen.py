"""Sightings: last-seen facts of each SIM (time, device, cell, RAT, zone), for the rules that need them.

A row is a card of the directory. Times are times of use, not of arrival; NEVER means that nothing was seen. A device,
cell, RAT or zone is valid until a later report changes it. A report older than the latest one of its SIM changes none
of them, so batches may come out of time order. Only facts that an active rule needs are kept.

Plain version: apply one report after another. That needs a Python loop over all records, so reports of a batch are
grouped by card and applied with running maxima. `test_batches_can_be_cut_anywhere` compares both.
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
from rating.columnar.key_index import Flags, Ints, KeyIndex, Words
from rating.rules.active_rule import Watch
from rating.rules.detect.traffic import Traffic
from rating.rules.firing.firings import nothing
from schemas.usage import Service

NEVER: Final = -(1 << 62)
UNKNOWN: Final = -1

# Shorter than any billing cycle. So a cycle without any report is part of one silence of at least this length.
_QUIET_US: Final = 27 * DAY_US

HEARD: Final = {None: "seen_us", Service.DATA: "data_us", Service.SMS: "sms_us", Service.VOICE: "voice_us"}
_TEXTS: Final = ("imei", "cell", "rat", "zone")
_TOLD: Final = {"imei": "imei", "cell": "cell_id", "rat": "rat"}  # the column of USAGE_SCHEMA that reports each fact
_NULL: Final = np.uint64(0)  # the digest of null
_IMEI: Final = "imei"


def quiet_columns(heard: str) -> tuple[str, str]:
    """Return the names of the columns for the begin and the end of the last long silence in the column `heard`."""
    stem = heard.removesuffix("_us")
    return f"{stem}_quiet_us", f"{stem}_again_us"


def needs(watches: Iterable[Watch]) -> set[str]:
    """Return the names of the columns that the active rules need."""
    found: set[str] = set()
    for watch in watches:
        trigger, rule = watch.trigger, watch.rule
        if trigger.kind == "silence":
            found.add(HEARD[trigger.service])
            if trigger.window == "cycle":
                found.update(quiet_columns(HEARD[trigger.service]))
        elif trigger.column == "plan":
            found.add("plan")
        elif trigger.fact is not None:
            found |= {trigger.fact, "seen_us"} | ({"cell_session"} if trigger.fact == "cell" else set())
        if trigger.kind not in ("usage", "pool") or trigger.hears_sessions or rule.repetition == "daily":
            # Ticks, catalogues and commands have no record for these filters, so they use the last-seen value.
            found.update(name for one in rule.filters for name in ("zone", "rat") if one.type == name)
    return found | ({"seen_us"} if found & set(_TEXTS) else set())


def device_of(imei: pl.Expr) -> pl.Expr:
    """Return the part of an IMEI that names the device: its first 14 digits.

    A check digit (15 digits) or a software version (16 digits) follows them. Other text is returned as it is.
    """
    return imei.str.replace(r"^(\d{14})\d{1,2}$", "${1}")


def devices(imeis: pl.Series) -> pl.Series:
    """String[n]: the part of each IMEI that names the device."""
    return imeis.to_frame("imei").select(device_of(pl.col("imei"))).to_series()


class Texts:
    """Distinct texts, numbered in order of first appearance and looked up by digest. No text is ever removed.

    With `devices`, the texts are IMEIs, and `meanings` tells those of one device from those of another.
    """

    def __init__(self, texts: Sequence[str] = (), devices: bool = False) -> None:
        self.index = KeyIndex()
        self.series = pl.Series([], dtype=pl.String)
        self._devices = Texts() if devices else None
        self._device = nothing()  # The number of the device of each text, if the texts are IMEIs.
        if len(texts):
            self.numbers(pl.Series(texts, dtype=pl.String))

    def __len__(self) -> int:
        return len(self.series)

    def numbers(self, texts: pl.Series, digests: Words | None = None) -> Ints:
        """int64[n]: the number of each text; UNKNOWN for null. New texts get numbers in order of appearance.

        `digests` (uint64[n]) are the digests of the texts, if the caller has them already.
        """
        if digests is None:
            digests = digests_of(texts.to_frame("text"), ["text"])["text"]
        found = self.index.find(digests)
        missing = np.flatnonzero((found < 0) & (digests != _NULL))
        if len(missing):
            first = np.sort(missing[np.unique(digests[missing], return_index=True)[1]])
            self.index.insert(digests[first])
            fresh = texts.gather(first).alias("")
            self.series = pl.concat([self.series, fresh], rechunk=True)
            if self._devices is not None:
                self._device = np.concatenate([self._device, self._devices.numbers(devices(fresh))])
            found[missing] = self.index.find(digests[missing])
        return found

    def meanings(self, numbers: Ints) -> Ints:
        """int64[n]: a number for what each text (none UNKNOWN) means. IMEIs of one device have the same."""
        return numbers if self._devices is None else self._device[numbers]

    def named(self, numbers: Ints) -> pl.Series:
        """String[n]: the text of each number; null for UNKNOWN."""
        return self.series.gather(pl.Series(numbers).set(pl.Series(numbers < 0), None))


@dataclass(frozen=True)
class Reports:
    """Reports about SIMs, in journal order. Columns are int64[n] unless noted.

    A report with `used_us` NEVER is ignored. `service` is UNKNOWN if no service was used. `texts` contains numbers of
    Sightings.texts; UNKNOWN means that the report does not state the value. If `placed` is True, UNKNOWN for the zone
    means that the SIM is in no zone. `session` is a digest of the session id, UNKNOWN for none.
    """

    card: Ints
    used_us: Ints
    service: Ints
    texts: dict[str, Ints] = field(default_factory=dict)
    session: Ints | None = None
    placed: bool = False


@dataclass(frozen=True)
class Heard:
    """Effect of the reports of one journal entry. Columns are int64, one row per report.

    `before` and `after` are the number of each text before and after the report. `moved` has the indices of the reports
    that change a known value, by text name. `within` (bool[n]) marks reports whose cell and the cell before were
    reported in the same data session.
    """

    reports: Reports
    before: dict[str, Ints]
    after: dict[str, Ints]
    moved: dict[str, Ints]
    within: Flags


class Sightings:
    """Columns of int64, one row per card, and the texts to which some of the columns refer by number."""

    def __init__(self) -> None:
        self.columns: dict[str, Ints] = {"known_us": nothing()}
        self.texts = {name: Texts(devices=name == _IMEI) for name in _TEXTS}

    def __len__(self) -> int:
        return len(self.columns["known_us"])

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Ints:
        """int64[len], writable: the column `name`."""
        return self.columns[name]

    def follow(self, wanted: set[str], imei: pl.Series, plan: Ints, clock_us: int) -> None:
        """Maintain the columns `wanted`, and no others, from now on for all cards of the directory.

        `imei` (String[cards]) has the IMEIs of the catalogue, `plan` (int64[cards]) the plans in force. New cards are
        known since `clock_us`. Dropping the other columns ensures that a rule that needs them later does not find
        outdated values.
        """
        known = self.columns["known_us"]
        fresh = np.full(len(imei) - len(known), clock_us, np.int64)
        columns = {"known_us": np.concatenate([known, fresh])}
        for name in sorted(wanted):
            held = self.columns.get(name, nothing())
            rest = len(imei) - len(held)
            if name == "imei":
                added = self.texts[name].numbers(imei[len(held) :])
            elif name == "plan":
                added = plan[len(held) :]
            else:
                added = np.full(rest, NEVER if name.endswith("_us") else UNKNOWN, np.int64)
            columns[name] = np.concatenate([held, added]) if rest else held
        self.columns = columns

    def hear(self, reports: Reports) -> Heard:
        """Apply the reports and return what they changed.

        The result does not depend on how the reports are split into calls.
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
        """Update the latest time of each card and, if a rule watches cycles, its last long silence."""
        if quiet_columns(name)[0] in self:
            self._fall_quiet(name, card, used_us)
        np.maximum.at(self[name], card, used_us)

    def _fall_quiet(self, name: str, card: Ints, used_us: Ints) -> None:
        """Record long silences that a report ends, and shorten silences into which a late report falls."""
        quiet, again = (self[column] for column in quiet_columns(name))
        # Few reports do either, so only the SIMs of these reports are examined.
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
        # A late report within the silence moves the begin of the silence.
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
            moved = np.flatnonzero(says & (before >= 0) & (before != after))
            meanings = self.texts[name].meanings
            moved = moved[meanings(before[moved]) != meanings(after[moved])]
            heard.moved[name] = np.sort(groups.order[moved])

    def reports_of(self, traffic: Traffic, zones: Sequence[str]) -> Reports:
        """Return the reports in the records of a batch. `Traffic.zone` contains indices into `zones`."""
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
            number = np.full(len(zones) + 1, UNKNOWN, np.int64)  # index -1, no zone, selects the last element
            number[shown] = self.texts["zone"].numbers(pl.Series([zones[one] for one in shown], dtype=pl.String))
            texts["zone"] = number[traffic.zone]
        return Reports(traffic.card, traffic.used_us, traffic.service, texts, session, placed=True)

    def to_tables(self) -> dict[str, pa.Table]:
        """Return the tables `rule_sightings` (the columns, int64, one row per card) and `rule_texts`.

        `rule_texts` has the columns `kind` and `text`, in order of the numbers.
        """
        texts = pl.concat(
            [self.texts[name].series.alias("text").to_frame().with_columns(kind=pl.lit(name)) for name in _TEXTS]
        ).select("kind", "text")
        return {
            "rule_sightings": pa.table(self.columns),
            "rule_texts": texts.to_arrow(compat_level=pl.CompatLevel.oldest()),
        }

    @classmethod
    def from_tables(cls, tables: Mapping[str, pa.Table]) -> Sightings:
        """Return the sightings from the tables that `to_tables` returned."""
        sightings = cls()
        columns = tables["rule_sightings"]
        sightings.columns = {name: np.array(columns[name].to_numpy()) for name in columns.column_names}
        texts = pl.from_arrow(tables["rule_texts"])
        assert isinstance(texts, pl.DataFrame)
        for name in _TEXTS:
            sightings.texts[name].numbers(texts.filter(pl.col("kind") == name)["text"])
        return sightings


def digests_of(rows: pl.DataFrame, columns: Sequence[str]) -> dict[str, Words]:
    """Return digests of the texts of each column, uint64[n] by column name; 0 for null."""
    if not columns:
        return {}
    found = rows.select(plh.col(name).nchash.xxh3_64().fill_null(int(_NULL)) for name in columns)
    return {name: found[name].to_numpy() for name in columns}


def sessions_of(digests: Words) -> Ints:
    """int64[n]: an identifier of the session of each record, from the digest of its id; UNKNOWN for none."""
    return np.where(digests == _NULL, UNKNOWN, digests.view(np.int64))


def _lasts(groups: Groups, values: npt.NDArray[np.int64]) -> Ints:
    """int64[g]: the last value of each group; `values` are in group order."""
    lasts: Ints = values[np.append(groups.starts[1:], len(groups.order)) - 1]
    return lasts


def _last_where(chosen: Flags, groups: Groups) -> Ints:
    """int64[n] in group order: the last chosen row of the group up to each row; -1 if there is none."""
    place = np.maximum.accumulate(np.where(chosen, np.arange(len(chosen)), -1))
    return np.where(place >= groups.starts[groups.segment], place, -1)


def _carried(groups: Groups, says: Flags, values: Ints, held: Ints) -> tuple[Ints, Ints]:
    """Return the current value before and after each row, two int64[n] in group order.

    The current value starts as `held[g]`. Each row for which `says` is true replaces it.
    """
    last = _last_where(says, groups)
    after = np.where(last >= 0, values[last], held[groups.segment])
    before = np.empty_like(after)
    before[1:] = after[:-1]
    before[groups.starts] = held
    return before, after


def _latest_before(groups: Groups, used: Ints, held: Ints) -> Ints:
    """int64[n] in group order: the largest value of the group before each row, including `held`, the initial value."""
    low = int(used.min())
    shifted = np.empty_like(used)
    shifted[1:] = used[:-1]
    shifted[groups.starts] = np.maximum(held, low - 1)  # clamp: how far an initial value is below `low` is irrelevant
    span = int(shifted.max()) - low + 2
    if span * (len(groups.starts) + 1) < 1 << 62:
        # Adding group number * span separates the groups, so one running maximum serves all of them.
        base = groups.segment * span - (low - 1)
        latest = np.maximum.accumulate(base + shifted) - base
    else:
        found, rank = distinct(shifted)
        base = groups.segment * len(found)
        latest = found[np.maximum.accumulate(base + rank) - base]
    return np.where(latest < low, held[groups.segment], latest)
