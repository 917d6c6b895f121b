"""Materialised command log: accepted catalogues, active rules and card-to-partition routing, as of any offset.

Everything follows from the log alone, so two registries that have read the same messages give the same answers.
Messages are checked as the embedded driver checks them, but against a state without usage and without cards. That is
enough, because the checks only ask whether a card exists and where, which the router knows. So actions of rules, which
change cards, have no effect here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import polars as pl

from pipeline.journal.arrival import time_problem
from pipeline.journal.entries import Apply, Commands, Entry, Rejects, Rerate, Tick, Usage, has_baseline, kind_number
from pipeline.journal.messages import LIMIT_BYTES, Fence, messages_of, read_message
from pipeline.journal.router import Router
from pipeline.streaming.commands.bounds import size_problem
from pipeline.streaming.failures import ANY_FAILURE, said
from rating.apply import Compiled, apply
from rating.dedupe.seen import DAY_US
from rating.errors import CatalogueError, Finding, InputError, RuleError, StorageError
from rating.rules.active_rules import RuleSet
from rating.rules.commands.commands import check_commands, unseen
from rating.rules.state import RuleState
from rating.state import State
from rating.usage.rated_rows import Names
from schemas.cards import Addon, Catalogue
from schemas.commands import Activate, Command, Deactivate

_ROUTERS: Final = 4  # cached, because lanes that catch up alternate between older ones
_OF_COMMANDS: Final = frozenset(kind_number(kind) for kind in (Apply, Commands, Tick))
_ROOM_BYTES: Final = 4096  # how much larger a part may be than the message that it came in
_SHOWN: Final = 20
_NOTHING: Final = (KeyError, ValueError, pl.exceptions.PolarsError)  # raised by unchecked content
_DOCUMENTS: Final = ("accounts", "zones", "plans", "pools", "addons", "rules")
_ROUTED: Final = ("iccid", "imsi", "msisdn", "device", "account")


@dataclass(frozen=True)
class _Accepted:
    """The part of an accepted catalogue that routing needs."""

    offset: int
    cards: pl.DataFrame  # the columns of CARD_SCHEMA that a router reads
    addons: tuple[Addon, ...]


class _Before(NamedTuple):
    """What the log had put into force before a message."""

    state: State
    compiled: Compiled
    accepted: int
    routers: dict[int, Router]
    newest: Router


class Registry:
    """The command log up to `next_offset`, folded. For use in one thread."""

    def __init__(self, partitions: int, limit_bytes: int = LIMIT_BYTES) -> None:
        """Start with an empty log, for messages of the journal of at most `limit_bytes`.

        Raises ConfigError if a journal cannot have so many partitions.
        """
        self.partitions = partitions
        self._limit_bytes = limit_bytes
        self.next_offset = 0
        self._state = State()
        self._compiled = Compiled(self._state)
        self._catalogues: list[int] = []  # offsets of all accepted ones, in order
        self._accepted: list[_Accepted] = []  # those that change routing
        self._repeats: dict[int, tuple[bool, ...]] = {}  # for messages with repeats: which commands are new
        self._routers = {0: Router(partitions)}  # by the number of accepted catalogues that each includes
        self._newest = self._routers[0]

    def take(self, offset: int, content: bytes, timestamp_us: int | None = None) -> str | None:
        """Apply the message at `offset`. Returns None if accepted, otherwise the reason for the rejection.

        A rejected message changes nothing, whatever it contains and whatever it raises. `timestamp_us` is the broker's
        time of the message: a time of arrival more than a day after it is rejected. Raises StorageError if messages are
        missing before this one.
        """
        if offset != self.next_offset:
            raise StorageError(
                f"commands[0]@{offset}: found this after offset {self.next_offset - 1}; expected {self.next_offset}: "
                "the log of commands must be whole from its beginning; restore the topic, and let it keep everything"
            )
        before = _Before(self._state, self._compiled, len(self._accepted), dict(self._routers), self._newest)
        try:
            refused = self._taken(offset, content, timestamp_us)
        except ANY_FAILURE as failure:
            refused = (
                f"commands[0]@{offset}: found a message that cannot be applied ({said(failure)}); expected one of weir"
            )
        if refused is not None:
            self._state, self._compiled, count, self._routers, self._newest = before
            del self._accepted[count:]
            self._repeats.pop(offset, None)
            if self._catalogues[-1:] == [offset]:
                self._catalogues.pop()
        self.next_offset = offset + 1
        return refused

    def _taken(self, offset: int, content: bytes, timestamp_us: int | None) -> str | None:
        entry = _entry_of(offset, content)
        if isinstance(entry, str):
            return entry
        at_us = entry.now_us if isinstance(entry, Tick) else entry.at_us
        problem = None if at_us is None else time_problem(at_us, timestamp_us)
        if problem is not None:
            return f"commands[0]@{offset}: {problem}; check the clock of the machine that sent it, or --as-of"
        problem = size_problem(entry, len(content))
        if problem is not None:
            return f"commands[0]@{offset}: {problem}"
        large = len(content) > self._limit_bytes - _ROOM_BYTES
        refused = self._refusal(offset, entry, large)
        if refused is None and large:
            self.parts(entry, offset, offset, "commands")  # raises if a part does not fit a message of the journal
        return refused

    def router_at(self, catalogue_offset: int) -> Router:
        """Return the router for all catalogues accepted up to and including an offset of the log. Do not change it."""
        count = bisect_right(self._accepted, catalogue_offset, key=lambda one: one.offset)
        if count == len(self._accepted):
            return self._newest
        start = max(known for known in self._routers if known <= count)
        router = self._routers.pop(start)
        if start < count:
            self._routers[start] = router  # keep the older router, as the one used just before
            router = router.copy()
            for one in self._accepted[start:count]:
                router.take(Catalogue(cards=one.cards, addons=one.addons))
        self._routers[count] = router
        self._forget()
        return router

    def has_catalogue(self, offset: int) -> bool:
        """Return whether the message at an offset is an accepted catalogue."""
        at = bisect_left(self._catalogues, offset)
        return at < len(self._catalogues) and self._catalogues[at] == offset

    def parts(self, entry: Entry | Rejects, catalogue_offset: int, offset: int, topic: str) -> list[list[bytes]]:
        """Return the messages of an accepted entry at `offset` of `topic`, a list for each journal partition.

        Repeated commands, whose key was used before, are left out, because not every partition knows the key. The same
        call always returns the same bytes.
        """
        router = self.router_at(catalogue_offset)
        if isinstance(entry, (Usage, Rejects, Rerate)):
            raise ValueError("usage is no entry of the log of commands")
        if isinstance(entry, Commands) and offset in self._repeats:
            takes = self._repeats[offset]
            commands = tuple(one for one, fresh in zip(entry.commands, takes, strict=True) if fresh)
            entry = replace(entry, commands=commands)
        split = router.split_known(entry) if isinstance(entry, Apply) else router.split(entry)
        fence = Fence(topic, 0, offset)
        return [[] if part is None else messages_of(part, fence, self._limit_bytes) for part in split]

    def partition_of(self, iccid: str) -> int:
        """Return the partition of a card as of `next_offset`; of an unknown ICCID, the one computed from the number."""
        return int(self._newest.of_cards(pl.Series([iccid], dtype=pl.String))[0])

    def partition_of_pool(self, pool_id: str) -> int | None:
        """Return the partition of a pool, or of a device with this id, as of `next_offset`; None if neither exists."""
        accounts = [pool.account for pool in self._state.catalogue.pools if pool.id == pool_id]
        if accounts:
            return int(self._newest.of_accounts(pl.Series(accounts[:1]))[0])
        return self._newest.of_device(pool_id)

    def account_of(self, iccid: str) -> str | None:
        """Return the account of a card as of `next_offset`, or None if there is no such card."""
        return self._newest.account_of(iccid)

    def account_of_pool(self, pool_id: str) -> str | None:
        """Return the account of a pool, or of a device with this id, as of `next_offset`; None if neither exists."""
        accounts = [pool.account for pool in self._state.catalogue.pools if pool.id == pool_id]
        return accounts[0] if accounts else self._newest.account_of_device(pool_id)

    def is_within(self, account: str, tops: Collection[str]) -> bool:
        """Return whether an account is one of `tops` or below one of them."""
        tree = self._compiled.book.account_tree
        return any(tree.is_within(account, top) for top in tops)

    def _refusal(self, offset: int, entry: Apply | Commands | Tick, large: bool) -> str | None:
        try:
            match entry:
                case Apply():
                    self._apply(offset, entry)
                case Commands():
                    self._command(offset, entry, large)
                case Tick(now_us):
                    self._state = replace(self._state, clock_us=max(self._state.clock_us, now_us))
        except InputError as error:
            return str(error)
        return None

    def _apply(self, offset: int, entry: Apply) -> None:
        change, at_us = entry.catalogue, entry.at_us
        if at_us is None:
            raise CatalogueError([_finding("at", "no time", "when the catalogue came")])
        following, compiled = replace(self._state), self._compiled
        documents = replace(change, cards=change.cards.clear())
        if any(getattr(change, name) for name in _DOCUMENTS):
            try:
                compiled = apply(following, documents)
            except _NOTHING as error:
                found = f"an unknown name or value ({error!r})"
                raise CatalogueError([_finding("catalogue", found, "what `weir apply` takes")]) from error
            _require_rules(following, compiled)
        self._require_cards(change)
        router = self._newest.copy()
        cards = router.take(change)
        following.clock_us = max(following.clock_us, at_us)
        self._state, self._compiled = following, compiled
        self._catalogues.append(offset)
        if len(cards) or change.addons:
            self._routers[len(self._accepted)] = self._newest
            self._newest = router
            self._accepted.append(_Accepted(offset, cards.select(_ROUTED), change.addons))
            self._forget()

    def _forget(self) -> None:
        """Evict the least recently used routers."""
        for count in [count for count in self._routers if count][:-_ROUTERS]:
            del self._routers[count]

    def _require_cards(self, change: Catalogue) -> None:
        """Raise CatalogueError unless each card occurs once and has a known account."""
        iccids = change.cards["iccid"]
        if iccids.null_count() or iccids.n_unique() < len(iccids):
            raise CatalogueError([_finding("cards.iccid", "none, or one twice", "each card once")])
        known = {account.id for account in (*self._state.catalogue.accounts, *change.accounts)}
        named = set(change.cards["account"].unique())
        unknown = sorted(str(name) for name in named - known)
        if unknown:
            raise CatalogueError(
                [_finding("cards.account", f"account {name}", "an account") for name in unknown[:_SHOWN]]
            )

    def _command(self, offset: int, entry: Commands, large: bool) -> None:
        state, commands = self._state, entry.commands
        check_commands(self._with_cards(commands), commands)
        starts = any(isinstance(command, Activate) for command in commands)
        seen = deepcopy(state.seen) if starts or large else state.seen  # the message may still be rejected
        takes = unseen(seen, commands, entry.at_us // DAY_US)
        active = dict(state.rules.active)
        for command, fresh in zip(commands, takes, strict=True):
            if fresh and isinstance(command, Activate):
                active.setdefault(command.rule, entry.at_us)
            elif fresh and isinstance(command, Deactivate):
                active.pop(command.rule, None)
        following = replace(state, seen=seen, rules=RuleState(active), clock_us=max(state.clock_us, entry.at_us))
        if starts:
            _require_rules(following, self._compiled)
        self._state = following
        if not all(takes):
            self._repeats[offset] = tuple(takes)

    def _with_cards(self, commands: Sequence[Command]) -> State:
        """Return the state with the existing cards that the commands name."""
        named = {iccid for command in commands if (iccid := getattr(command, "iccid", None)) is not None}
        if not named:
            return self._state
        iccids = pl.Series("iccid", sorted(named), dtype=pl.String)
        cards = iccids.filter(pl.Series(self._newest.knows(iccids))).to_frame()
        return replace(self._state, catalogue=replace(self._state.catalogue, cards=cards))


def _entry_of(offset: int, content: bytes) -> Apply | Commands | Tick | str:
    """Return the entry of a message of the log, or the reason why it has none.

    Tables of usage and baselines are refused before they are unpacked: a few bytes could unpack to any size.
    """
    where = f"commands[0]@{offset}"
    message = read_message(content, where)
    if message.kind not in _OF_COMMANDS:
        return f"{where}: found usage; expected a catalogue, commands or a tick: send usage to the topic of raw usage"
    if has_baseline(message.kind, message.payload):
        return f"{where}: found commands with totals of the history; expected commands only: workers read the history"
    entry = message.entry()
    assert isinstance(entry, (Apply, Commands, Tick))
    return entry


def _require_rules(state: State, compiled: Compiled) -> None:
    """Raise RuleError if an active rule cannot be compiled."""
    try:
        RuleSet(state, compiled, Names.of(compiled).zones)
    except _NOTHING as error:
        raise RuleError(Finding(("rules",), f"an unknown name or value ({error!r})", "none")) from error


def _finding(field: str, found: str, expected: str) -> Finding:
    return Finding((field,), found, expected, file="catalogue")
