"""Apply a catalogue change: upsert by id, extend the histories of plans and pools, and compile the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np
import polars as pl

from rating.calendars.calendar import zone_calendar
from rating.catalogue.cards import CardHistories, Directory, Targets, Upserted, upsert_cards, upserted
from rating.catalogue.facts import follow
from rating.catalogue.pools import Pools, device_pools
from rating.catalogue.rates import Book
from rating.catalogue.vocabulary import Vocabulary
from rating.columnar.key_index import Ints
from rating.errors import Finding, PlanError, RuleError
from rating.queried_state import HISTORIES, QueriedState
from rating.usage.allowances import Addons
from schemas.cards import Catalogue
from schemas.plans import Plan

if TYPE_CHECKING:
    from rating.state import State

_Entry = TypeVar("_Entry")


class Compiled:
    """The compiled catalogue of a state: the table of rates, the card directory, pools and add-ons.

    `cards` describes the cards that the latest change upserted. It is None if no change led to this catalogue.
    """

    def __init__(self, state: QueriedState, cards: Upserted | None = None, former: Compiled | None = None) -> None:
        """Compile the catalogue of `state`.

        `former` is the compiled catalogue before the change. Its parts that the change does not touch are reused.
        Its table of rates is reused if it was compiled with the state's vocabulary.
        """
        self.cards = cards
        vocabulary = state.vocabulary
        if former is not None and former.book.vocabulary is vocabulary:
            self.book: Book = former.book
        else:
            for pool in state.catalogue.pools:
                vocabulary.pools.row(pool.id)
            for device in device_pools(state.catalogue.cards):
                vocabulary.pools.row(device)
            self.book = Book(state.catalogue, vocabulary)
        self.directory: Directory = Directory(
            CardHistories(
                state.catalogue.cards, state.plan_history, state.pool_history, state.fact_history, state.tenures
            ),
            Targets(vocabulary.accounts.rows, vocabulary.plans.rows, vocabulary.pools.rows),
            {plan.id: plan.term_months for plan in state.catalogue.plans if plan.term_months is not None},
            None if former is None or cards is None else (former.directory, cards),
        )
        kept = None
        if former is not None and former.book is self.book and cards is not None and cards.keeps("device"):
            kept = former.pools
        self.pools: Pools = Pools(self.book, self.directory, kept)
        self.addons = Addons(state.catalogue.addons, self.book, self.directory, state.addon_used)


def merge(catalogue: Catalogue, change: Catalogue) -> Catalogue:
    """Return the catalogue with `change` upserted.

    Raises PlanError if the change gives other content to a plan version that exists. Usage was rated by that version,
    so a new price needs a new version (P1).
    """
    return _merge(catalogue, change, upsert_cards(catalogue.cards, change.cards))


def _merge(catalogue: Catalogue, change: Catalogue, cards: pl.DataFrame) -> Catalogue:
    return Catalogue(
        accounts=_upsert(catalogue.accounts, change.accounts, lambda account: account.id),
        zones=_upsert(catalogue.zones, change.zones, lambda zones: zones.id),
        plans=_merge_plans(catalogue.plans, change.plans),
        pools=_upsert(catalogue.pools, change.pools, lambda pool: pool.id),
        addons=_upsert(catalogue.addons, change.addons, lambda addon: addon.id),
        rules=_upsert(catalogue.rules, change.rules, lambda rule: rule.id),
        cards=cards,
    )


def check(state: State, change: Catalogue) -> None:
    """Validate a change without applying it. Raises PlanError or RuleError if it is invalid."""
    _require_inactive(state, change)
    merged = _merge(state.catalogue, change, state.catalogue.cards)  # the checks do not look at cards
    Book(merged, Vocabulary(state.vocabulary.to_dict()))


def apply(state: State, change: Catalogue, former: Compiled | None = None, now_us: int | None = None) -> Compiled:
    """Apply `change` to the state and return the compiled catalogue.

    `former` is the compiled catalogue before the change. Its parts that the change does not touch are reused. `now_us`
    is the time of arrival (microseconds since 1970 UTC; None: the latest so far). On its local day a change of a card
    takes effect, unless the card says another day.
    Raises PlanError if the change cannot be compiled, and RuleError if it would change an active rule. The state is
    then unchanged.
    """
    _require_inactive(state, change)
    cards = upserted(state.catalogue.cards, change.cards)
    catalogue = _merge(state.catalogue, change, cards.cards)
    histories = follow(
        CardHistories(state.catalogue.cards, state.plan_history, state.pool_history, state.fact_history, state.tenures),
        cards,
        {pool.id: pool.account for pool in catalogue.pools},
        lambda accounts: _days_of(catalogue, accounts, state.clock_us if now_us is None else now_us),
    )
    following = replace(
        state,
        catalogue=catalogue,
        plan_history=histories.plans,
        pool_history=histories.pools,
        fact_history=histories.facts,
        tenures=histories.tenures,
        vocabulary=state.vocabulary.copy() if _names_more(state, change) else state.vocabulary,
        generation=state.generation + 1,
    )
    compiled = Compiled(following, cards, former)
    for name in ("catalogue", *HISTORIES, "vocabulary", "generation"):
        setattr(state, name, getattr(following, name))
    return compiled


def _days_of(catalogue: Catalogue, accounts: pl.Series, us: int) -> Ints:
    """Return the local day of an instant in each account, by id, int64[n]."""
    zones = {account.id: account.time_zone for account in catalogue.accounts}
    wanted = accounts.unique().to_list()
    days = {name: int(zone_calendar(zones[name]).local_day(np.array([us], np.int64))[0]) for name in wanted}
    return accounts.replace_strict(days, return_dtype=pl.Int64).to_numpy()


def _names_more(state: State, change: Catalogue) -> bool:
    """Return True unless the change only touches cards on known devices; then it can add no names or rates."""
    if any((change.accounts, change.zones, change.plans, change.pools, change.addons, change.rules)):
        return True
    known = state.vocabulary.pools.rows
    return any(device not in known for device in device_pools(change.cards))


def _require_inactive(state: State, change: Catalogue) -> None:
    """Raise RuleError if the change gives an active rule other content, filters included (L6)."""
    held = {rule.id: rule for rule in state.catalogue.rules if rule.id in state.rules.active}
    for rule in change.rules:
        if held.get(rule.id, rule) != rule:
            found = "another content than that of the active rule"
            expected = f"the same: deactivate it first with `weir rules deactivate {rule.id}`"
            raise RuleError(Finding((), found, expected, f"rule {rule.id}"))


def _upsert(entries: tuple[_Entry, ...], change: Iterable[_Entry], key: Callable[[_Entry], str]) -> tuple[_Entry, ...]:
    merged = {key(entry): entry for entry in entries}
    for entry in change:
        merged[key(entry)] = entry
    return tuple(merged.values())


def _merge_plans(plans: tuple[Plan, ...], change: Iterable[Plan]) -> tuple[Plan, ...]:
    merged = {plan.id: plan for plan in plans}
    for plan in change:
        versions = {}
        if plan.id in merged:
            versions = {version.version: version for version in merged[plan.id].versions}
        for version in plan.versions:
            former = versions.get(version.version)
            if former is not None and former != version:
                found = f"version {version.version} with other content than the one in force"
                expected = "a new version number with its own effective day"
                raise PlanError(Finding((), found, expected, f"plan {plan.id}"))
            versions[version.version] = version
        merged[plan.id] = msgspec.structs.replace(plan, versions=tuple(versions.values()))
    return tuple(merged.values())
