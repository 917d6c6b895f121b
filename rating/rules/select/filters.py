"""Filters: which SIMs and records a rule watches, by owner, scope, filters and nearest setting (L1, L6, L9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import polars as pl

from rating.catalogue.cards import Directory
from rating.catalogue.rates import Book
from rating.columnar.groups import distinct
from rating.columnar.key_index import Flags, Ints
from rating.rules.select.attributes import Holders, among
from rating.rules.select.nearest import Nearest, nearness
from schemas.cards import Catalogue
from schemas.rules import Filter, FilterType, Rule

Context = Literal["root", "account"]

# The contexts in which a filter type is allowed (L9): rules of root, rules of an account, or both.
LEGAL: Final[dict[FilterType, tuple[Context, ...]]] = {
    "account": ("root",),
    "account_status": ("root",),
    "account_tag": ("root",),
    "sub_account": ("account",),
    "sub_account_status": ("account",),
    "plan": ("account",),
    "plan_type": ("account",),
    "custom_attribute": ("account",),
    "zone": ("account",),
    "sim_tag": ("root", "account"),
    "sim_status": ("root", "account"),
    "rat": ("root", "account"),
}

_RECORD: Final = ("zone", "rat")
_ACCOUNT: Final = ("account", "account_status", "account_tag", "sub_account", "sub_account_status")
_PLAN: Final = ("plan", "plan_type")
_KEPT_DAYS: Final = 4  # number of local days of arrival for which the plans of all cards are cached

_Key = tuple[FilterType, str | None]


def context(rule: Rule) -> Context:
    """Return the context of a rule: "root", or "account" if an account owns it."""
    return "root" if rule.owner is None else "account"


class Filters:
    """Owner, scope and filters of rules, evaluated over whole columns. Each part is compiled at its first use.

    Filters of one type are joined by OR, types by AND (L9). The context of a filter is not checked here: the check of
    a catalogue does so, with `LEGAL`. `former` are the filters before a change; their unchanged parts are used again.
    A rule is given by its index (`place`) in `rules`.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        catalogue: Catalogue,
        book: Book,
        directory: Directory,
        former: Filters | None = None,
    ) -> None:
        self.rules = rules
        self.tree = book.account_tree
        self.account = directory.account
        self._order = self.tree.order[directory.account]  # int64[cards]: saves one look-up per card in `in_scope`
        self._catalogue = catalogue
        self._book = book
        self._directory = directory
        self._wanted: dict[_Key, set[str]] = {}
        self._settings: dict[str, list[int]] = {}
        for place, rule in enumerate(rules):
            if rule.nearest is not None:
                self._settings.setdefault(rule.nearest, []).append(place)
            for one in rule.filters:
                self._wanted.setdefault((one.type, one.name), set()).update(one.values)
        self._kinds: dict[int, list[tuple[FilterType, tuple[Filter, ...]]]] = {}
        self._holders: dict[_Key, tuple[set[str], Holders]] = {}
        self._former_holders = {} if former is None else former._holders
        self._former_cards = None if former is None else former._directory.cards
        self._accounts: dict[tuple[str | None, tuple[Filter, ...]], Flags] = {}
        self._plans: dict[tuple[Filter, ...], Ints] = {}
        self._plan_on: dict[int, Ints] = {}
        self._nearest: dict[str, Nearest] = {}
        self._scopes: list[Ints] | None = None
        self._positions: dict[str, tuple[list[str], int, dict[str, list[int]]]] = {}

    def cards(self, place: int, card: Ints, day: Ints) -> Flags:
        """bool[n]: whether a rule watches each card, by owner, scope, filters on cards, and nearest setting.

        `day` is the local day of arrival. It determines the plan of the card. Filters on the record (`places`) do not
        affect which setting is the nearest. If several settings are equally near, all of them apply.
        """
        watched = self.in_scope(place, card, day)
        rule = self.rules[place]
        if rule.nearest is None or len(self._settings[rule.nearest]) == 1:
            return watched
        if rule.nearest not in self._nearest:
            self._nearest[rule.nearest] = Nearest(self, self._settings[rule.nearest])
        at = np.flatnonzero(watched)
        watched[at] = ~self._nearest[rule.nearest].nearer(nearness(rule, self.tree), card[at], day[at])
        return watched

    def places(self, place: int, zone: Ints, zones: list[str], rat: Ints, rats: list[str]) -> Flags:
        """bool[n]: whether each record passes the filters on zone and RAT of a rule.

        `zone` and `rat` are indices into `zones` and `rats`. -1 means unknown and matches no filter value.
        """
        watched = np.ones(len(zone), bool)
        for kind, some in self._of(place):
            if kind in _RECORD:
                code, names = (zone, zones) if kind == "zone" else (rat, rats)
                watched &= among(code, self._codes(kind, names, some))
        return watched

    def looks_at(self, place: int, name: Literal["zone", "rat"]) -> bool:
        """Return whether a rule has a filter of type `name`, zone or RAT of the record."""
        return any(one.type == name for one in self.rules[place].filters)

    def in_scope(self, place: int, card: Ints, day: Ints) -> Flags:
        """bool[n]: whether owner, scope and filters on cards let a rule watch each card, ignoring nearer settings."""
        rule = self.rules[place]
        watched = np.ones(len(card), bool)
        if rule.owner is not None:
            if rule.owner not in self.tree.rows:
                return np.zeros(len(card), bool)
            watched = self.tree.numbered_within(self._order[card], self.tree.rows[rule.owner])
        if rule.sims:
            watched &= among(card, self.scope(place))
        for kind, some in self._of(place):
            at = np.flatnonzero(watched)
            if kind in _ACCOUNT:
                watched[at] = self._account_mask(rule.owner, some)[self.account[card[at]]]
            elif kind in _PLAN:
                watched[at] = among(self.plan(card[at], day[at]), self.plans(some))
            elif kind not in _RECORD:
                watched[at] = self._have(some, card[at])
        return watched

    def scope(self, place: int) -> Ints:
        """int64[k], ascending: the existing cards that a rule of individual scope names."""
        if self._scopes is None:
            # Look up the cards of all rules at once: one look-up per rule is slow if thousands of rules name one SIM.
            lengths = np.array([len(rule.sims) for rule in self.rules], np.int64)
            iccids = pl.Series([iccid for rule in self.rules for iccid in rule.sims], dtype=pl.String)
            named = self._directory.rows_of(iccids)
            self._scopes = np.split(named, np.cumsum(lengths)[:-1])
        rows = self._scopes[place]
        return np.unique(rows[rows >= 0])

    def plan(self, card: Ints, day: Ints) -> Ints:
        """int64[n]: the plan of each card on its local day; -1 if it has none."""
        spells = self._directory.plans
        days, of_day = distinct(day)
        if len(days) > _KEPT_DAYS or not len(days):
            return spells.at(card, day)
        found = np.zeros(len(card), np.int64)
        for number, one in enumerate(days.tolist()):
            if one not in self._plan_on:
                if len(self._plan_on) == _KEPT_DAYS:
                    del self._plan_on[min(self._plan_on)]
                everyone = np.arange(len(self._directory))
                self._plan_on[one] = spells.at(everyone, np.full(len(everyone), one))
            if len(days) == 1:
                return self._plan_on[one][card]
            here = np.flatnonzero(of_day == number)
            found[here] = self._plan_on[one][card[here]]
        return found

    def plans(self, some: tuple[Filter, ...]) -> Ints:
        """int64[k]: the plans that match any of these filters, which are all of type plan or all of type plan_type."""
        if some not in self._plans:
            values = _values(some)
            rows = self._book.vocabulary.plans.rows
            named = values if some[0].type == "plan" else [p.id for p in self._catalogue.plans if p.type in values]
            self._plans[some] = np.array(sorted(rows[name] for name in named if name in rows), np.int64)
        return self._plans[some]

    def _of(self, place: int) -> list[tuple[FilterType, tuple[Filter, ...]]]:
        """Return the filters of a rule, grouped by type."""
        if place not in self._kinds:
            by_type: dict[FilterType, list[Filter]] = {}
            for one in self.rules[place].filters:
                by_type.setdefault(one.type, []).append(one)
            self._kinds[place] = [(kind, tuple(some)) for kind, some in by_type.items()]
        return self._kinds[place]

    def _account_mask(self, owner: str | None, some: tuple[Filter, ...]) -> Flags:
        """bool[accounts]: the accounts whose SIMs match any of these filters, which are all of one type.

        sub_account also matches the accounts below the named ones. The owner does not count as its own sub-account.
        """
        key = (owner, some)
        if key not in self._accounts:
            values, accounts, kind = _values(some), self._catalogue.accounts, some[0].type
            if kind == "account":
                mask = np.array([account.id in values for account in accounts], bool)
            elif kind == "account_tag":
                mask = np.array([not values.isdisjoint(account.tags) for account in accounts], bool)
            elif kind == "sub_account":
                mask = self._below(owner, values)
            else:
                mask = np.array([account.status in values for account in accounts], bool)
                if owner is not None and kind == "sub_account_status":
                    mask[self.tree.rows[owner]] = False
            self._accounts[key] = mask
        return self._accounts[key]

    def _below(self, owner: str | None, names: set[str]) -> Flags:
        """bool[accounts]: the named sub-accounts of the owner, and all accounts below them."""
        mask = np.zeros(len(self.tree.parent), bool)
        everyone = np.arange(len(mask))
        named = np.array([self.tree.rows[name] for name in names if name in self.tree.rows and name != owner], np.int64)
        if owner is not None:
            named = named[self.tree.within(named, self.tree.rows[owner])]
        for row in named.tolist():
            mask |= self.tree.within(everyone, row)
        return mask

    def _have(self, some: tuple[Filter, ...], card: Ints) -> Flags:
        """bool[n]: whether each card matches any of these filters on tag, status or custom field."""
        have = np.zeros(len(card), bool)
        for one in some:
            holders = self._holders_of((one.type, one.name))
            for text in dict.fromkeys(one.values):
                have |= holders.have(text, card)
        return have

    def _holders_of(self, key: _Key) -> Holders:
        if key not in self._holders:
            kind, name = key
            wanted, cards = self._wanted[key], self._directory.cards
            column = {"sim_tag": "tags", "sim_status": "status"}.get(kind, "custom")
            held = self._former_holders.get(key)
            if held is None or not wanted <= held[0] or not cards[column].equals(self._former_column(column)):
                held = (wanted, Holders.of(cards, kind, name, wanted))
            self._holders[key] = held
        return self._holders[key][1]

    def _former_column(self, name: str) -> pl.Series:
        assert self._former_cards is not None
        return self._former_cards[name]

    def _codes(self, kind: FilterType, names: list[str], some: tuple[Filter, ...]) -> Ints:
        """int64[k]: the indices in `names` of the values of the filters."""
        known = self._positions.get(kind)
        if known is None or known[0] is not names or known[1] != len(names):
            rows: dict[str, list[int]] = {}
            for row, name in enumerate(names):
                rows.setdefault(name, []).append(row)
            self._positions[kind] = known = (names, len(names), rows)
        return np.array([row for value in _values(some) for row in known[2].get(value, ())], np.int64)


def _values(some: tuple[Filter, ...]) -> set[str]:
    return {value for one in some for value in one.values}
