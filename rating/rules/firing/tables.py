"""Outcome of the rules: the tables of firings and actions that leave the engine (L10, L12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from rating.catalogue.cards import Directory
from rating.catalogue.pools import DEVICE_PREFIX
from rating.catalogue.vocabulary import Vocabulary
from rating.columnar.arrow import instant, known, spelled, text, words
from rating.columnar.groups import distinct
from rating.columnar.key_index import Ints
from rating.columnar.sharing import own_column, shared_column
from rating.rules.active_rule import Watch
from rating.rules.commands.card_changes import is_own, no_notes, notes_of
from rating.rules.firing.firings import NETWORK, NONE, RESUMES, Fires, Labels, is_withheld
from rating.rules.triggers import Trigger
from schemas.rules import Action, Rule
from schemas.tables import ACTIONS, FIRINGS

_RELEASED: Final = ".released"


@dataclass(frozen=True)
class FiredOn:
    """The journal entry that rules fired on: its partition, its time, and the keys of the records of its batch.

    `at_us` is in microseconds since 1970 UTC. `Fires.place` is a row of `record_keys`; None: the entry has no records.
    """

    partition: int
    at_us: int
    record_keys: pl.Series | None = None


class Outcome:
    """Firings and actions of one journal entry. Any thread may build the tables, when it first reads them.

    To make them takes as long as to find them, so a driver asks in the thread that writes. `watches` are the active
    rules by number.
    """

    def __init__(
        self,
        watches: Mapping[int, Watch],
        fires: Sequence[Fires],
        directory: Directory,
        vocabulary: Vocabulary,
        entry: FiredOn,
    ) -> None:
        fires = [one for one in fires if len(one)]
        rules = [watches[one.rule].rule for one in fires]
        self._count = sum(map(len, fires))
        self._actions_count = sum(
            int(np.count_nonzero(one.withheld == value)) * len(_asked(rule, one.released, value))
            for one, rule in zip(fires, rules, strict=True)
            for value in (NONE, RESUMES, NETWORK)
        )
        self._has_own = any(is_own(action) for rule in rules for action in rule.actions)
        self._found = _Found.of(watches, fires, directory, vocabulary, entry.record_keys) if fires else None
        self._entry = entry

    def __len__(self) -> int:
        """Return the number of firings."""
        return self._count

    @property
    def actions_count(self) -> int:
        """The number of actions."""
        return self._actions_count

    @property
    def firings(self) -> pa.Table:
        """Rows of schemas.tables.FIRINGS, in order of offset, rule, SIM and release."""
        return self._tables[0]

    @property
    def actions(self) -> pa.Table:
        """Rows of schemas.tables.ACTIONS, in the order of the firings and of `sequence`."""
        return self._tables[1]

    @property
    def notes(self) -> pl.DataFrame:
        """Changes of tags and custom fields (NOTE_SCHEMA) that the actions request."""
        return notes_of(self.actions) if self._has_own else no_notes()

    @cached_property
    def _tables(self) -> tuple[pa.Table, pa.Table]:
        if self._found is None:
            return FIRINGS.empty_table(), ACTIONS.empty_table()
        return _tables(self._found, self._entry)


@dataclass(frozen=True)
class _Found:
    """The firings of an entry in order of offset, rule, SIM and release, safe for any thread (rating.columnar.sharing).

    Columns have one row per firing. `rule` indexes `rules`, the rules that fired, and `triggers`. `columns` has the
    columns of `_NUMBERS`, `texts` those of `_TEXTS`. `pool_names` is empty if no firing belongs to a pool.
    """

    rules: list[Rule]
    triggers: list[Trigger]
    rule: Ints
    released: np.ndarray
    columns: dict[str, Ints]
    texts: dict[str, pa.Array]
    iccid: pa.Array
    account: pa.Array
    record_key: pa.Array
    pool_names: list[str]

    @classmethod
    def of(
        cls,
        watches: Mapping[int, Watch],
        fires: Sequence[Fires],
        directory: Directory,
        vocabulary: Vocabulary,
        record_keys: pl.Series | None,
    ) -> _Found:
        """Gather the firings of one or more rules, each with at least one firing."""
        number = np.concatenate([np.full(len(one), one.rule, np.int64) for one in fires])
        released = np.concatenate([np.full(len(one), one.released) for one in fires])
        columns = {name: np.concatenate([getattr(one, name) for one in fires]) for name in _NUMBERS}
        order = np.lexsort((released, columns["card"], number, columns["offset"]))
        columns = {name: column[order] for name, column in columns.items()}
        texts = {name: pl.concat([_strings(getattr(one, name), len(one)) for one in fires]) for name in _TEXTS}
        numbers, rule = np.unique(number[order], return_inverse=True)
        card, place = columns["card"], columns["place"]
        keys = pl.Series([None] * len(order), dtype=pl.String)
        if record_keys is not None:
            keys = record_keys.gather(np.where(place == NONE, 0, place)).zip_with(pl.Series(place != NONE), keys)
        return cls(
            rules=[watches[one].rule for one in numbers.tolist()],
            triggers=[watches[one].trigger for one in numbers.tolist()],
            rule=rule,
            released=released[order],
            columns=columns,
            texts={name: shared_column(column.gather(order)) for name, column in texts.items()},
            iccid=shared_column(directory.cards["iccid"].gather(card)),
            account=words(directory.account[card], vocabulary.accounts.names),
            record_key=shared_column(keys),
            pool_names=vocabulary.pools.names[:] if (columns["pool"] != NONE).any() else [],
        )


@dataclass(frozen=True)
class _Identified:
    """Firings and their texts and ids, as columns of the thread that makes the tables; String[n]."""

    found: _Found
    entry: FiredOn
    iccid: pl.Series
    rule_id: pl.Series
    ends: pl.Series  # what the ids of a firing and its actions end with
    firing_id: pl.Series


def _tables(found: _Found, entry: FiredOn) -> tuple[pa.Table, pa.Table]:
    columns, place, released, rules, triggers = found.columns, found.rule, found.released, found.rules, found.triggers
    count, partition = len(place), entry.partition
    iccid, keys = own_column(found.iccid), own_column(found.record_key)
    texts = {name: own_column(column) for name, column in found.texts.items()}
    ids = pl.Series([one.id for one in rules], dtype=pl.String).gather(place)
    ends = _ends(columns["offset"], place, columns["card"], released)
    firing_id = _joined(partition, columns["offset"], iccid, None, ids, ends)
    at = instant(entry.at_us, count)
    partitions = pa.array(np.full(count, partition, np.int32))
    firings = {
        "firing_id": text(firing_id),
        "rule_id": text(ids).dictionary_encode(),
        "kind": words(released.astype(np.int64), ["fired", "released"]),
        "trigger": spelled(place, [one.name for one in triggers]),
        "owner": spelled(place, [one.owner for one in rules]),
        "account_id": found.account,
        "iccid": text(iccid),
        "pool_id": words(
            np.where(columns["pool"] == NONE, -1, columns["pool"]),
            [name.removeprefix(DEVICE_PREFIX) for name in found.pool_names],
        ),
        "window": text(texts["label"]).dictionary_encode(),
        "unit": spelled(place, [one.unit for one in triggers]),
        "value_before": known(columns["before"], NONE),
        "value_now": known(columns["now"], NONE),
        "size": known(columns["size"], NONE),
        "threshold": known(columns["threshold"], NONE),
        "levels": _levels(found),
        "from_value": text(texts["from_value"]),
        "to_value": text(texts["to_value"]),
        "used_at": known(columns["used_us"], NONE).view(pa.timestamp("us", "UTC")),
        "record_key": text(keys),
        "fired_at": at,
        "journal_partition": partitions,
        "journal_offset": pa.array(columns["offset"]),
    }
    identified = _Identified(found, entry, iccid, ids, ends, firing_id)
    return pa.table(firings, schema=FIRINGS), _actions(identified)


_NUMBERS: Final = (
    "card", "offset", "level", "known", "before", "now", "size", "threshold", "pool", "used_us", "place",
    "withheld",
)  # fmt: skip
_TEXTS: Final = ("from_value", "to_value", "label")


def _actions(firings: _Identified) -> pa.Table:
    """A row of ACTIONS for each action of each firing, in the order of firings and sequences."""
    found, entry = firings.found, firings.entry
    rules, offset, partition = found.rules, found.columns["offset"], entry.partition
    iccid, ids, ends, firing_id = firings.iccid, firings.rule_id, firings.ends, firings.firing_id
    withheld = (NONE, RESUMES, NETWORK)
    asked = [_asked(rule, end, value) for value in withheld for end in (False, True) for rule in rules]
    flat = [(one, name) for own in asked for one, name in map(_named, own)]
    first = np.cumsum([0, *(len(own) for own in asked)])
    row = found.rule + found.released * len(rules)
    row = row + np.maximum(found.columns["withheld"], 0) * 2 * len(rules)
    lengths = np.diff(first)[row]
    firing = np.repeat(np.arange(len(row)), lengths)
    which = np.arange(len(firing)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[row][firing]
    if not len(firing):
        return ACTIONS.empty_table()
    sequence = np.array([own.sequence for own, _ in flat], np.int64)[which]
    count = len(firing)
    columns = {
        "action_id": text(
            _joined(partition, offset[firing], iccid.gather(firing), sequence, ids.gather(firing), ends.gather(firing))
        ),
        "firing_id": text(firing_id.gather(firing)),
        "rule_id": text(ids.gather(firing)).dictionary_encode(),
        "sequence": pa.array(sequence.astype(np.int32)),
        "action": spelled(which, [own.type for own, _ in flat]),
        "account_id": found.account.take(pa.array(firing)),
        "iccid": text(iccid.gather(firing)),
        "parameters": spelled(which, [text for _, text in flat]),
        "created_at": instant(entry.at_us, count),
        "journal_partition": pa.array(np.full(count, partition, np.int32)),
        "journal_offset": pa.array(offset[firing]),
    }
    return pa.table(columns, schema=ACTIONS)


def _asked(rule: Rule, released: bool, withheld: int) -> list[Action]:
    """Return the actions of a firing by `sequence`, without those that are withheld.

    The actions of a release are a resume for each suspension that Weir lifts by itself. A rule that no longer suspends
    has one resume, for what it suspended before it was changed.
    """
    actions = sorted(rule.actions, key=lambda action: action.sequence)
    if released:
        lifted = [action for action in actions if action.type == "suspend" and action.until != "released"]
        actions = [Action(sequence=action.sequence, type="resume", reason=action.reason) for action in lifted]
        actions = actions or [Action(sequence=1, type="resume")]
    return [action for action in actions if not is_withheld(action.type, withheld)]


def _named(action: Action) -> tuple[Action, str]:
    """Return the action, and its fields other than `sequence` and `type` as JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(action)
    own = {name: value for name, value in fields.items() if name not in ("sequence", "type")}
    if action.type in ("suspend", "resume"):
        own["reason"] = action.reason  # written even if it is the default
    return action, msgspec.json.encode(own, order="sorted").decode()


def _ends(offset: Ints, rule: Ints, card: Ints, released: np.ndarray) -> pl.Series:
    """String[n]: the suffix of each firing id. It numbers several firings of a rule for a SIM at one offset (from the
    second on), and marks a release. The firings must be in order of offset, rule, card and release.
    """
    again = np.zeros(len(offset), bool)
    again[1:] = (offset[1:] == offset[:-1]) & (rule[1:] == rule[:-1]) & (card[1:] == card[:-1])
    again[1:] &= released[1:] == released[:-1]
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
    ordinal = np.arange(len(again)) - first
    codes, code = distinct(ordinal * 2 + released)
    texts = [(f".{one // 2 + 1}" if one > 1 else "") + (_RELEASED if one % 2 else "") for one in codes.tolist()]
    return pl.Series(texts, dtype=pl.String).gather(code)


def _joined(
    partition: int, offset: Ints, iccid: pl.Series, sequence: Ints | None, ids: pl.Series, ends: pl.Series
) -> pl.Series:
    parts = {"offset": pl.Series(offset), "iccid": iccid}
    if sequence is not None:
        parts["sequence"] = pl.Series(sequence)
    frame = pl.DataFrame(parts | {"id": ids, "end": ends})
    text = f"{partition}." + ".".join(["{}"] * (len(parts) + 1)) + "{}"
    return frame.select(joined=pl.format(text, *frame.columns)).to_series()


def _levels(found: _Found) -> pa.Array:
    """list<string>[n]: every level that was crossed; if none is new, the highest level met.

    A hard cut has one level that the rule does not write: the cut of the plan.
    """
    place, fired, level = found.rule, found.columns["known"], found.columns["level"]
    written = [[str(level) for level in one.levels] for one in found.rules]
    cuts = np.array([one.measure == "hard_cut" for one in found.rules], bool)[place] & (level > 0)
    if cuts.any():
        rows = np.flatnonzero(cuts)
        texts, code = distinct(found.columns["threshold"][rows])
        first = len(written)
        written += [[_data(one)] for one in texts.tolist()]
        place, level, fired = place.copy(), level.copy(), fired.copy()
        place[rows], level[rows], fired[rows] = first + code, 1, 0
    from_level = np.where(level > fired, fired, np.maximum(level - 1, 0))
    most = int(level.max(initial=0)) + 1
    combinations, code = distinct((place * most + from_level) * most + level)
    lists = [written[one // (most * most)][one // most % most : one % most] for one in combinations.tolist()]
    return pa.array(lists, pa.list_(pa.string())).take(pa.array(code))


def _data(units: int) -> str:
    """Return bytes in the largest unit that leaves no fraction."""
    for name, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if units and units % size == 0:
            return f"{units // size} {name}"
    return str(units)


def _strings(column: pl.Series | Labels | None, count: int) -> pl.Series:
    if column is None:
        return pl.Series([None], dtype=pl.String).new_from_index(0, count)
    return (column.text() if isinstance(column, Labels) else column).alias("")
