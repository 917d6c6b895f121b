"""The nearest of several settings with one `nearest` name: SIM before plan before account before root (L1).

A setting is a rule with a `nearest` name. Plain version: evaluate every setting for every card. There can be thousands
of settings, so those for SIMs, for plans only and for accounts only are looked up together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from rating.catalogue.account_tree import AccountTree
from rating.columnar.key_index import Flags, Ints
from rating.rules.select.attributes import among
from schemas.rules import Filter, Rule

_ROOT: Final = 0  # an account has the rank 1 + its depth
_PLAN: Final = 1 << 30
_SIM: Final = 1 << 31


def nearness(rule: Rule, tree: AccountTree) -> int:
    """Return the rank of a setting. The higher the rank, the nearer the setting; deeper accounts rank higher."""
    if rule.sims:
        return _SIM
    if any(one.type == "plan" for one in rule.filters):
        return _PLAN
    if rule.owner is None or rule.owner not in tree.rows:
        return _ROOT
    return _ROOT + 1 + int(tree.depth[tree.rows[rule.owner]])


class Scopes(Protocol):
    """The scopes of rules without regard to nearness, as rating.rules.select.filters.Filters has them."""

    @property
    def rules(self) -> Sequence[Rule]:
        """The active rules."""

    @property
    def tree(self) -> AccountTree:
        """The tree of accounts."""

    @property
    def account(self) -> Ints:
        """int64[cards]: the account of each card."""

    def scope(self, place: int) -> Ints:
        """Return the cards that a rule names."""

    def plans(self, some: tuple[Filter, ...]) -> Ints:
        """Return the plans that filters on plans name."""

    def plan(self, card: Ints, day: Ints) -> Ints:
        """int64[n]: the plan of each card on its day."""

    def in_scope(self, place: int, card: Ints, day: Ints) -> Flags:
        """bool[n]: whether owner, scope and filters of a rule include each card."""


class Nearest:
    """The settings with one name.

    Settings for SIMs, for plans only and for accounts only are looked up together, so the cost does not grow with their
    number. Settings with other filters on cards are evaluated one by one.
    """

    def __init__(self, filters: Scopes, places: list[int]) -> None:
        self._filters = filters
        tree = filters.tree
        count = len(tree.parent)
        self._others: list[tuple[int, int]] = []
        scopes: list[Ints] = []
        plans: dict[int, set[int]] = {}  # by depth of the owner (-1: root), keys of owner and plan
        own = np.full(count, _ROOT, np.int64)
        for place in places:
            rule = filters.rules[place]
            kinds = {one.type for one in rule.filters} - {"zone", "rat"}
            owner = -1 if rule.owner is None else tree.rows.get(rule.owner, -2)
            if owner == -2:
                continue
            if rule.sims and not kinds:
                rows = filters.scope(place)
                scopes.append(rows if owner < 0 else rows[tree.within(filters.account[rows], owner)])
            elif kinds == {"plan"} and not rule.sims:
                named = filters.plans(tuple(one for one in rule.filters if one.type == "plan"))
                depth = -1 if owner < 0 else int(tree.depth[owner])
                plans.setdefault(depth, set()).update((_key(np.int64(max(owner, 0)), named)).tolist())
            elif not kinds and not rule.sims:
                if owner >= 0:
                    own[owner] = nearness(rule, tree)
            else:
                self._others.append((nearness(rule, tree), place))
        self._others.sort(reverse=True)
        self._sims = np.unique(np.concatenate(scopes)) if scopes else np.zeros(0, np.int64)
        self._plans = [
            (None if depth < 0 else tree.at_depth(depth), np.array(sorted(keys), np.int64))
            for depth, keys in sorted(plans.items())
        ]
        # The setting of an account also applies to the accounts below it that have none of their own.
        for depth in range(1, int(tree.depth.max(initial=0)) + 1):
            rows = np.flatnonzero(tree.depth == depth)
            own[rows] = np.maximum(own[rows], own[tree.parent[rows]])
        self._account = own

    def nearer(self, rank: int, card: Ints, day: Ints) -> Flags:
        """bool[n]: whether a setting of higher rank than `rank` watches each card. `day` is as in Filters.cards."""
        filters = self._filters
        found = np.zeros(len(card), bool)
        if rank < _SIM and len(self._sims):
            found |= among(card, self._sims)
        if rank < _PLAN:
            account = filters.account[card]
            found |= self._account[account] > rank
            plan = filters.plan(card, day) if self._plans else card
            for above, keys in self._plans:
                owner = np.zeros_like(card) if above is None else above[account]
                found |= (plan >= 0) & (owner >= 0) & np.isin(_key(owner, plan), keys)
        for other, place in self._others:
            if other <= rank:
                break
            rest = np.flatnonzero(~found)
            found[rest] = filters.in_scope(place, card[rest], day[rest])
        return found


def _key(owner: Ints | np.int64, plan: Ints) -> Ints:
    return (owner << np.int64(32)) | plan
