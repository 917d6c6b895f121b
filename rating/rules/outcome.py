"""The outcome of rules: the tables of firings and actions that leave the engine (L10, L12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from rating.columns import instant, known, spelled, text, words
from rating.directory import Directory
from rating.groups import distinct
from rating.index import Ints
from rating.pools import DEVICE_PREFIX
from rating.rules.amend import is_own, no_notes, notes_of
from rating.rules.firing import NONE, Fires, Labels
from rating.rules.watch import Watch
from rating.vocabulary import Vocabulary
from schemas.rules import Action, Rule
from schemas.tables import ACTIONS, FIRINGS

_RELEASED: Final = ".released"


class Outcome:
    """What the rules made of one entry: `firings` and `actions` are made when they are first asked for.

    That takes as long as finding them; a driver asks in the thread that writes. `watches` are the active rules by
    number, `record_keys` the keys of the batch that `Fires.place` points to.
    """

    def __init__(
        self,
        watches: Mapping[int, Watch],
        fires: Sequence[Fires],
        directory: Directory,
        vocabulary: Vocabulary,
        record_keys: pl.Series | None,
        at_us: int,
        partition: int,
    ) -> None:
        self._watches = watches
        self._fires = [one for one in fires if len(one)]
        self._directory = directory
        self._accounts = vocabulary.accounts.names[:]
        self._pools = vocabulary.pools.names[:] if any((one.pool != NONE).any() for one in self._fires) else []
        self._record_keys = record_keys
        self._at_us = at_us
        self._partition = partition

    def __len__(self) -> int:
        """How many firings there are."""
        return sum(len(one) for one in self._fires)

    @property
    def actions_count(self) -> int:
        """How many actions there are."""
        return sum(len(one) * len(_asked(self._watches[one.rule].rule, one.released)) for one in self._fires)

    @property
    def firings(self) -> pa.Table:
        """Rows of schemas.tables.FIRINGS, in order of offset, rule and SIM."""
        return self._tables[0]

    @property
    def actions(self) -> pa.Table:
        """Rows of schemas.tables.ACTIONS, in the order of the firings and of their sequences."""
        return self._tables[1]

    @property
    def notes(self) -> pl.DataFrame:
        """What cards are told (NOTE_SCHEMA) by the actions that are Weir's own."""
        own = any(is_own(action) for one in self._fires for action in self._watches[one.rule].rule.actions)
        return notes_of(self.actions) if own else no_notes()

    @cached_property
    def _tables(self) -> tuple[pa.Table, pa.Table]:
        return _tables(
            self._watches, self._fires, self._directory, self._accounts, self._pools, self._record_keys, self._at_us,
            self._partition,
        )  # fmt: skip


def _tables(
    watches: Mapping[int, Watch],
    fires: Sequence[Fires],
    directory: Directory,
    accounts: list[str],
    pools: list[str],
    record_keys: pl.Series | None,
    at_us: int,
    partition: int,
) -> tuple[pa.Table, pa.Table]:
    if not fires:
        return FIRINGS.empty_table(), ACTIONS.empty_table()
    rule = np.concatenate([np.full(len(one), one.rule, np.int64) for one in fires])
    released = np.concatenate([np.full(len(one), one.released) for one in fires])
    columns = {name: np.concatenate([getattr(one, name) for one in fires]) for name in _NUMBERS}
    texts = {name: pl.concat([_strings(getattr(one, name), len(one)) for one in fires]) for name in _TEXTS}
    order = np.lexsort((released, columns["card"], rule, columns["offset"]))
    rule, released = rule[order], released[order]
    columns = {name: column[order] for name, column in columns.items()}
    texts = {name: column.gather(order) for name, column in texts.items()}
    card, count = columns["card"], len(order)
    iccid = directory.cards["iccid"].gather(card)
    account = words(directory.account[card], accounts)
    rules = [watches[number].rule for number in np.unique(rule).tolist()]
    place = np.searchsorted(np.unique(rule), rule)
    triggers = [watches[number].trigger for number in np.unique(rule).tolist()]
    ids = pl.Series([one.id for one in rules], dtype=pl.String).gather(place)
    ends = _ends(columns["offset"], rule, card, released)
    firing_id = _joined(partition, columns["offset"], iccid, None, ids, ends)
    at = instant(at_us, count)
    partitions = pa.array(np.full(count, partition, np.int32))
    keys = pl.Series([None] * count, dtype=pl.String)
    if record_keys is not None:
        present = columns["place"] != NONE
        keys = record_keys.gather(np.where(present, columns["place"], 0)).zip_with(pl.Series(present), keys)
    firings = {
        "firing_id": text(firing_id),
        "rule_id": text(ids).dictionary_encode(),
        "kind": words(released.astype(np.int64), ["fired", "released"]),
        "trigger": spelled(place, [one.name for one in triggers]),
        "owner": spelled(place, [one.owner for one in rules]),
        "account_id": account,
        "iccid": text(iccid),
        "pool_id": words(
            np.where(columns["pool"] == NONE, -1, columns["pool"]),
            [name.removeprefix(DEVICE_PREFIX) for name in pools],
        ),
        "window": text(texts["label"]).dictionary_encode(),
        "unit": spelled(place, [one.unit for one in triggers]),
        "value_before": known(columns["before"], NONE),
        "value_now": known(columns["now"], NONE),
        "size": known(columns["size"], NONE),
        "threshold": known(columns["threshold"], NONE),
        "levels": _levels(place, columns["known"], columns["level"], [_written(one.levels) for one in rules]),
        "from_value": text(texts["from_value"]),
        "to_value": text(texts["to_value"]),
        "used_at": known(columns["used_us"], NONE).view(pa.timestamp("us", "UTC")),
        "record_key": text(keys),
        "fired_at": at,
        "journal_partition": partitions,
        "journal_offset": pa.array(columns["offset"]),
    }
    return (
        pa.table(firings, schema=FIRINGS),
        _actions(rules, place, released, columns["offset"], iccid, ids, ends, firing_id, account, at_us, partition),
    )


_NUMBERS: Final = (
    "card", "offset", "level", "known", "before", "now", "size", "threshold", "pool", "used_us", "place",
)  # fmt: skip
_TEXTS: Final = ("from_value", "to_value", "label")


def _actions(
    rules: list[Rule],
    place: Ints,
    released: np.ndarray,
    offset: Ints,
    iccid: pl.Series,
    ids: pl.Series,
    ends: pl.Series,
    firing_id: pl.Series,
    account: pa.Array,
    at_us: int,
    partition: int,
) -> pa.Table:
    """A row of ACTIONS for each action of each firing, in the order of firings and sequences."""
    asked = [_asked(rule, end) for end in (False, True) for rule in rules]
    flat = [(one, name) for own in asked for one, name in map(_named, own)]
    first = np.cumsum([0, *(len(own) for own in asked)])
    row = place + released * len(rules)
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
        "account_id": account.take(pa.array(firing)),
        "iccid": text(iccid.gather(firing)),
        "parameters": spelled(which, [text for _, text in flat]),
        "created_at": instant(at_us, count),
        "journal_partition": pa.array(np.full(count, partition, np.int32)),
        "journal_offset": pa.array(offset[firing]),
    }
    return pa.table(columns, schema=ACTIONS)


def _asked(rule: Rule, released: bool) -> list[Action]:
    """The actions of a firing in their order; of a release, the resumes that follow suspensions of their own accord."""
    actions = sorted(rule.actions, key=lambda action: action.sequence)
    if not released:
        return actions
    return [
        Action(sequence=action.sequence, type="resume", reason=action.reason)
        for action in actions
        if action.type == "suspend" and action.until != "released"
    ]


def _named(action: Action) -> tuple[Action, str]:
    """The action, and its own fields as JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(action)
    own = {name: value for name, value in fields.items() if name not in ("sequence", "type")}
    if action.type in ("suspend", "resume"):
        own["reason"] = action.reason  # said even where it is the default
    return action, msgspec.json.encode(own, order="sorted").decode()


def _ends(offset: Ints, rule: Ints, card: Ints, released: np.ndarray) -> pl.Series:
    """String[n]: what an id ends with: which of several firings of a rule for a SIM at one offset, and that it is a
    release. The firings come in order of offset, rule, card and release.
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


def _levels(place: Ints, fired: Ints, level: Ints, written: list[list[str]]) -> pa.Array:
    """list<string>[n]: every level that was crossed; where none is new, the highest that holds."""
    from_level = np.where(level > fired, fired, np.maximum(level - 1, 0))
    most = int(level.max(initial=0)) + 1
    combinations, code = distinct((place * most + from_level) * most + level)
    lists = [written[one // (most * most)][one // most % most : one % most] for one in combinations.tolist()]
    return pa.array(lists, pa.list_(pa.string())).take(pa.array(code))


def _written(levels: Sequence[str | int]) -> list[str]:
    return [str(level) for level in levels]


def _strings(column: pl.Series | Labels | None, count: int) -> pl.Series:
    if column is None:
        return pl.Series([None], dtype=pl.String).new_from_index(0, count)
    return (column.text() if isinstance(column, Labels) else column).alias("")
