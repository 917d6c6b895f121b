"""Apply a catalogue change: upsert by id, extend the histories of plans and pools, and compile the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec
import polars as pl

from rating.catalogue.cards import (
    BEGINNING,
    END,
    CardHistories,
    Directory,
    Targets,
    Upserted,
    add_spells,
    upsert_cards,
    upserted,
)
from rating.catalogue.pools import Pools, device_pools
from rating.catalogue.rates import Book
from rating.catalogue.vocabulary import Vocabulary
from rating.errors import PlanError, RuleError
from rating.queried_state import QueriedState
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
            CardHistories(state.catalogue.cards, state.plan_history, state.pool_history),
            Targets(vocabulary.accounts.rows, vocabulary.plans.rows, vocabulary.pools.rows),
            {plan.id: plan.term_months for plan in state.catalogue.plans if plan.term_months is not None},
            None if former is None or cards is None else (former.directory, cards),
        )
        kept = None
        if former is not None and former.book is self.book and cards is not None and cards.keeps("device"):
            kept = former.pools
        self.pools: Pools = Pools(self.book, self.directory, kept)
        self.addons = Addons(state.catalogue.addons, self.directory, state.addon_used)


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


def apply(state: State, change: Catalogue, former: Compiled | None = None) -> Compiled:
    """Apply `change` to the state and return the compiled catalogue.

    `former` is the compiled catalogue before the change. Its parts that the change does not touch are reused.
    Raises PlanError if the change cannot be compiled, and RuleError if it would change an active rule. The state is
    then unchanged.
    """
    _require_inactive(state, change)
    cards = upserted(state.catalogue.cards, change.cards)
    catalogue = _merge(state.catalogue, change, cards.cards)
    rows = cards.change.select(
        "plan", "plan_from", "pool", "pool_from", "pool_until", card=pl.Series(cards.rows, dtype=pl.Int64)
    )
    day = pl.col("plan_from").to_physical().cast(pl.Int64).fill_null(BEGINNING)
    plan_history = add_spells(
        state.plan_history,
        rows.filter(pl.col("plan").is_not_null()).select(
            "card", from_day=day, until_day=pl.lit(END, pl.Int64), target=pl.col("plan")
        ),
    )
    pool_history = add_spells(
        state.pool_history,
        rows.filter(pl.col("pool").is_not_null()).select(
            "card",
            from_day=pl.col("pool_from").to_physical().cast(pl.Int64).fill_null(BEGINNING),
            until_day=pl.col("pool_until").to_physical().cast(pl.Int64).fill_null(END),
            target=pl.col("pool"),
        ),
    )
    following = replace(
        state,
        catalogue=catalogue,
        plan_history=plan_history,
        pool_history=pool_history,
        vocabulary=state.vocabulary.copy() if _names_more(state, change) else state.vocabulary,
        generation=state.generation + 1,
    )
    compiled = Compiled(following, cards, former)
    for name in ("catalogue", "plan_history", "pool_history", "vocabulary", "generation"):
        setattr(state, name, getattr(following, name))
    return compiled


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
            raise RuleError(
                f"rule {rule.id}: found another content than that of the active rule; expected the same: deactivate it "
                f"first with `weir rules deactivate {rule.id}`"
            )


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
                raise PlanError(
                    f"plan {plan.id}: found version {version.version} with other content than the one in force; "
                    f"expected a new version number with its own effective day"
                )
            versions[version.version] = version
        merged[plan.id] = msgspec.structs.replace(plan, versions=tuple(versions.values()))
    return tuple(merged.values())
