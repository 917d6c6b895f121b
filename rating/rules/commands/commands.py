"""Commands in the fold: validation, deduplication by key, and the table of results (L6, L10)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn, get_args

import numpy as np
import polars as pl
import pyarrow as pa

from rating.catalogue.cards import Directory
from rating.columnar.key_index import Words
from rating.dedupe.seen import DAY_US, Seen, digest, first_in_batch
from rating.errors import Finding, RuleError, UsageError
from rating.rules.commands.action_ids import read_action_id
from rating.state import State
from schemas.choices import CARD_STATUSES
from schemas.commands import Activate, Command, Deactivate, Failed, NetworkEvent, PlanChanged, StatusChanged
from schemas.tables import RESULTS

REFUSED: Final = "refused"  # outcome of a result that names a card or plan that does not exist
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
RULE_COMMANDS: Final = (Activate, Deactivate)
EVENTS: Final = get_args(NetworkEvent)


def kind_of(command: Command) -> str:
    """Return the kind of a command: "rule", "result" or "event"."""
    if isinstance(command, RULE_COMMANDS):
        return "rule"
    return "event" if isinstance(command, EVENTS) else "result"


def check_commands(state: State, commands: Sequence[Command]) -> None:
    """Validate commands in order. Raises RuleError or UsageError if one cannot take effect after those before it.

    A command whose key was given before is not validated: it is a repeat and changes nothing.
    """
    fresh, _ = _fresh(state.seen, commands, state.clock_us // DAY_US)
    commands = [command for command, takes in zip(commands, fresh, strict=True) if takes]
    rules = {rule.id for rule in state.catalogue.rules}
    active = set(state.rules.active)
    plans = {plan.id for plan in state.catalogue.plans}
    iccids = {iccid for command in commands if (iccid := getattr(command, "iccid", None)) is not None}
    cards = set(state.catalogue.cards["iccid"].filter(state.catalogue.cards["iccid"].is_in(list(iccids))))
    for command in commands:
        iccid = getattr(command, "iccid", None)
        if iccid is not None and iccid not in cards:
            raise UsageError(f"iccid: found {iccid!r}, which no card has; expected a card of the catalogue")
        named = read_action_id(getattr(command, "action_id", None))
        if named is not None and iccid is not None and named.iccid != iccid:
            raise UsageError(f"action_id: found an action of SIM {named.iccid}; expected one of SIM {iccid}")
        if isinstance(command, PlanChanged) and command.plan not in plans:
            raise UsageError(f"plan: found {command.plan!r}; expected a plan of the catalogue, see docs/catalogue.md")
        if isinstance(command, StatusChanged) and command.status not in CARD_STATUSES:
            raise UsageError(f"status: found {command.status!r}; expected one of {', '.join(CARD_STATUSES)}")
        if isinstance(command, RULE_COMMANDS):
            _check_rule(command, rules, active)


def _check_rule(command: Activate | Deactivate, rules: set[str], active: set[str]) -> None:
    name = command.rule
    if name not in rules:
        _refuse(name, "which is no rule", "a rule of the catalogue: `weir rules list` names them")
    if isinstance(command, Activate):
        if name in active:
            _refuse(name, "which is active", "an inactive rule")
        active.add(name)
    else:
        if name not in active:
            _refuse(name, "which is inactive", "an active rule")
        active.remove(name)


def _refuse(name: str, found: str, expected: str) -> NoReturn:
    raise RuleError(Finding(("rule",), f"{name!r}, {found}", expected))


def unseen(seen: Seen, commands: Sequence[Command], today: int) -> list[bool]:
    """Return for each command whether it takes effect, and record the keys as seen.

    A command does not take effect if its key was given before (F4). `today` is a day since 1970.
    """
    fresh, keys = _fresh(seen, commands, today)
    if keys is not None:
        high, low = keys
        seen.add(high, low, np.zeros(len(high), np.uint64), today)
    return fresh


def _fresh(seen: Seen, commands: Sequence[Command], today: int) -> tuple[list[bool], tuple[Words, Words] | None]:
    """Return for each command whether it is new, and the digests (high, low) of the new keys; None without any key."""
    at = [place for place, command in enumerate(commands) if command.key is not None]
    fresh = [True] * len(commands)
    if not at:
        return fresh, None
    high, low = digest("commands", pl.Series([commands[place].key for place in at], dtype=pl.String))
    known, _ = seen.lookup(high, low, today)
    takes = (first_in_batch(high, low) == np.arange(len(at))) & ~known
    for place, one in zip(at, takes.tolist(), strict=True):
        fresh[place] = one
    return fresh, (high[takes], low[takes])


def judge(
    results: Iterable[tuple[int, Command]], state: State, directory: Directory
) -> list[tuple[int, Command, str | None]]:
    """Return (offset, result, reason) for each result.

    `reason` is None if the result is accepted. A result is rejected if its card or plan does not exist.
    """
    plans = {plan.id for plan in state.catalogue.plans}
    judged: list[tuple[int, Command, str | None]] = []
    for offset, command in results:
        iccid = getattr(command, "iccid", None)
        refused = None
        if iccid is not None and directory.row_of(iccid) < 0:
            refused = f"found ICCID {iccid}, which no card has; expected a card of the catalogue"
        elif isinstance(command, PlanChanged) and command.plan not in plans:
            refused = f"found plan {command.plan}; expected a plan of the catalogue"
        judged.append((offset, command, refused))
    return judged


def moment_us(command: Command, at_us: int) -> int:
    """Return the time of the event of a command in microseconds since 1970 UTC; `at_us` if the command has none."""
    return at_us if command.at is None else (command.at - _EPOCH) // dt.timedelta(microseconds=1)


def results_table(results: Iterable[tuple[int, Command, str | None]], at_us: int, partition: int) -> pa.Table:
    """Return rows of schemas.tables.RESULTS for tuples (offset, result, reason for the rejection or None)."""
    rows = []
    for offset, command, refused in results:
        message = command.message if isinstance(command, Failed) else None
        rows.append(
            {
                "action_id": getattr(command, "action_id", None),
                "iccid": getattr(command, "iccid", None),
                "outcome": REFUSED if refused is not None else str(command.__struct_config__.tag),
                "message": refused if refused is not None else message or None,
                "at": moment_us(command, at_us),
                "journal_partition": partition,
                "journal_offset": offset,
            }
        )
    if not rows:
        return RESULTS.empty_table()
    frame = {name: [row[name] for row in rows] for name in RESULTS.names}
    return pa.table(
        {
            name: pa.array(frame[name], pa.string()).dictionary_encode()
            if pa.types.is_dictionary(RESULTS.field(name).type)
            else pa.array(frame[name], RESULTS.field(name).type)
            for name in RESULTS.names
        },
        schema=RESULTS,
    )
