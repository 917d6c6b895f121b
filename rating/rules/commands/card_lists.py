"""Card lists and what results and actions have set: a list that comes again does not undo it (L10, C1).

Two writers share some fields of a card: the card list, and results and actions. `listed` is what the list last said of
the cards that results or actions have changed. A list that says the same again says nothing new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import polars as pl

from rating.catalogue.cards import given
from rating.columnar.key_index import Ints
from rating.rules.holds import OUTSIDE, REASONS, RELEASED, Holds, reason_code
from schemas.cards import CARD_SCHEMA

if TYPE_CHECKING:
    from rating.rules.active_rules import RuleSet
    from rating.rules.state import RuleState

_SHARED: Final = ("status", "status_reason", "plan", "plan_from", "tags", "custom")
LISTED_SCHEMA: Final[dict[str, pl.DataType]] = {name: CARD_SCHEMA[name] for name in ("iccid", *_SHARED)}
_SUSPENDED: Final = "suspended"
_ACTIVE: Final = "activated"


def none_listed() -> pl.DataFrame:
    """Return an empty frame of what lists said (LISTED_SCHEMA)."""
    return pl.DataFrame(schema=LISTED_SCHEMA)


def remember(listed: pl.DataFrame, cards: pl.DataFrame) -> pl.DataFrame:
    """Return `listed` with the cards (CARD_SCHEMA, before a result or an action changes them) that it did not have."""
    fresh = cards.select(*LISTED_SCHEMA).join(listed.select("iccid"), on="iccid", how="anti", maintain_order="left")
    return pl.concat([listed, fresh]) if len(fresh) else listed


def merged(change: pl.DataFrame, cards: pl.DataFrame, listed: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the cards of a list (CHANGE_SCHEMA) as they take effect, and what lists have said then (LISTED_SCHEMA).

    `cards` are the cards in force. Of a card that results or actions have changed, a field that is empty or as the list
    had it before is no longer given, so that it keeps its value in force; tags and custom fields that actions have
    added stay.
    """
    known = change.select("iccid").join(listed, on="iccid", how="semi")
    if known.is_empty():
        return change, listed
    if "given" not in change.columns:
        change = change.with_columns(given=pl.lit(None, pl.String))
    now = cards.join(known, on="iccid", how="semi")
    rows = {row["iccid"]: row for row in now.iter_rows(named=True)}
    told = {row["iccid"]: row for row in listed.join(known, on="iccid", how="semi").iter_rows(named=True)}
    fresh = change.join(known, on="iccid", how="semi", maintain_order="left")
    taken = [_taken(row, rows[row["iccid"]], told[row["iccid"]]) for row in fresh.iter_rows(named=True)]
    said = [_said(row, told[row["iccid"]]) for row in fresh.iter_rows(named=True)]
    return (
        change.update(pl.DataFrame(taken, schema=change.schema), on="iccid", how="left", include_nulls=True),
        listed.update(pl.DataFrame(said, schema=LISTED_SCHEMA), on="iccid", how="left", include_nulls=True),
    )


def _given(row: dict[str, Any]) -> set[str]:
    """Return the columns that a row of a list says something about (CHANGE_SCHEMA)."""
    if row["given"] is not None:
        return set(row["given"].split(","))
    return {name for name in CARD_SCHEMA if name not in ("plan", "pool") or row[name] is not None}


def _same(row: dict[str, Any], told: dict[str, Any], given: set[str], names: tuple[str, ...]) -> bool:
    """Return True if a row says of these columns what the list said before. A column that is not given says nothing."""
    return all(row[name] == told[name] for name in names if name in given)


def _taken(row: dict[str, Any], now: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a list as it takes effect."""
    taken, given = dict(row), _given(row)
    silent: set[str] = set()
    if row["status"] is None or _same(row, told, given, ("status", "status_reason")):
        silent |= {"status", "status_reason"}
    if row["plan"] is not None and _same(row, told, given, ("plan", "plan_from")):
        silent |= {"plan", "plan_from"}
    if row["tags"] is None or row["tags"] == told["tags"]:
        silent.add("tags")
    else:
        added = [tag for tag in now["tags"] or () if tag not in (told["tags"] or ())]
        taken["tags"] = list(dict.fromkeys([*row["tags"], *added]))
    if row["custom"] is None or row["custom"] == told["custom"]:
        silent.add("custom")
    else:
        before, fields = _fields(told["custom"]), _fields(row["custom"])
        own = {name: value for name, value in _fields(now["custom"]).items() if before.get(name) != value}
        kept = {name: value for name, value in own.items() if fields.get(name) == before.get(name)}
        taken["custom"] = msgspec.json.encode(fields | kept).decode()
    taken["given"] = ",".join(name for name in CARD_SCHEMA if name in given - silent)
    return taken


def _said(row: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return what lists have said of a card after a row of a list: a cell that is empty or not given says nothing."""
    said, given = {"iccid": row["iccid"]}, _given(row)
    for names in (("status", "status_reason"), ("plan", "plan_from"), ("tags",), ("custom",)):
        says = names[0] in given and row[names[0]] is not None
        said |= {name: row[name] if says and name in given else told[name] for name in names}
    return said


def _fields(custom: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(custom) if custom else {}
    return fields


def lift_listed(ruleset: RuleSet, state: RuleState, change: pl.DataFrame) -> pl.DataFrame:
    """Lift the holds that a card list ends; return the list (CARD_SCHEMA) with the status that its cards then have.

    A list that says `activated` of a suspended card releases it as a person does: holds that end by themselves stay,
    and so does the status. Any other status but `suspended` ends all holds of the card.
    """
    holds = state.holds
    if not len(holds) or change.is_empty():
        return change
    card = ruleset.directory.rows_of(change["iccid"])
    at = np.flatnonzero((card >= 0) & holds.any_on(card) & given(change, "status"))
    if not len(at):
        return change
    cards = ruleset.directory.cards["status"].gather(card[at]).fill_null(_ACTIVE).to_list()
    status, reason = change["status"].to_list(), change["status_reason"].to_list()
    for place, row, was in zip(at.tolist(), card[at].tolist(), cards, strict=True):
        becomes = status[place] or _ACTIVE
        if becomes in (was, _SUSPENDED):
            continue
        rows = holds.rows_on(np.array([row], np.int64))
        ends = rows[holds["until"][rows] == RELEASED] if becomes == _ACTIVE else rows
        state.memory.let_go(holds.cause[ends], holds.card[ends], again=False)
        holds.lift(ends)
        still = rows[(holds["on"][rows] == 1) & (holds["told"][rows] == 1)]
        if len(still):
            status[place], reason[place] = _SUSPENDED, REASONS[int(holds.reason[still[-1]])]
    return change.with_columns(
        status=pl.Series(status, dtype=pl.String), status_reason=pl.Series(reason, dtype=pl.String)
    )


def hold_listed(holds: Holds, card: Ints, before: pl.DataFrame, after: pl.DataFrame, offset: int) -> None:
    """Put a hold on each card that a list suspends, unless a hold that is confirmed has its reason.

    `card` (int64[n]) are rows of the directory, `before` and `after` (n rows) the status and its reason. A new card is
    null in `before`.
    """
    suspended = after["status"] == _SUSPENDED
    differs = before["status"].ne_missing(after["status"]) | before["status_reason"].ne_missing(after["status_reason"])
    at = np.flatnonzero((suspended.fill_null(False) & differs).to_numpy())
    if not len(at):
        return
    rows = holds.rows_on(card[at])
    told = rows[holds["told"][rows] == 1]
    known = set(zip(holds.card[told].tolist(), holds.reason[told].tolist(), strict=True))
    reasons = np.array(
        [reason_code(one if one in REASONS else "manual") for one in after["status_reason"].gather(at).to_list()]
    )
    for code in np.unique(reasons).tolist():
        cards = np.array([one for one in card[at[reasons == code]].tolist() if (one, code) not in known], np.int64)
        holds.put(cards, OUTSIDE, code, RELEASED, np.full(len(cards), offset, np.int64), told=True)
