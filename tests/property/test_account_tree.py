"""The tree of accounts against a walk from parent to parent, with and without circles."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from rating.catalogue.account_tree import AccountTree

NAMES = "abcdefgh"
PARENTS = st.dictionaries(st.sampled_from(NAMES), st.none() | st.sampled_from(NAMES + "x"), max_size=len(NAMES))


def walk(parents: dict[str, str | None], account: str) -> list[str]:
    """The account and those above it, up to one without a parent or one that the walk has passed."""
    found, above = [account], parents[account]
    while above in parents and above not in found:
        found.append(above)
        above = parents[above]
    return found


def without_circles(parents: dict[str, str | None]) -> tuple[dict[str, str | None], set[str]]:
    """The parents with each circle cut at its first account, and the accounts on circles."""
    cut, circular = dict(parents), set[str]()
    for account in parents:
        circle = walk(cut, account)
        if cut[circle[-1]] == account:
            circular.update(circle)
            cut[account] = None
    return cut, circular


@given(PARENTS)
@example({"a": "b", "b": "a"})
@example({"c": "b", "b": "a", "a": "b"})
@example({"a": "a", "b": "a"})
def test_the_tree_says_what_a_walk_says(parents: dict[str, str | None]) -> None:
    """Who is within whom, who is below, how deep and on a circle; by id and for whole columns."""
    tree = AccountTree(parents)
    cut, circular = without_circles(parents)
    above = {account: walk(cut, account) for account in parents}
    assert {tree.ids[row] for row in tree.circular} == circular
    every = np.arange(len(parents))
    for top in parents:
        within = {account for account in parents if top in above[account]}
        assert {account for account in parents if tree.is_within(account, top)} == within
        assert {tree.ids[row] for row in np.flatnonzero(tree.within(every, tree.rows[top]))} == within
        assert tree.below(top) == within - {top}
    assert {account: tree.depth[row] + 1 for account, row in tree.rows.items()} == {
        account: len(names) for account, names in above.items()
    }
    for depth in range(len(parents)):
        expected = [names[-1 - depth] if depth < len(names) else None for names in above.values()]
        assert [tree.ids[row] if row >= 0 else None for row in tree.at_depth(depth).tolist()] == expected


def test_what_is_no_account_is_within_nothing() -> None:
    """A name that the catalogue does not know is below no account, and no account is below it."""
    tree = AccountTree({"a": None, "b": "a"})
    assert tree.is_within("b", "a")
    assert not any((tree.is_within("x", "a"), tree.is_within(None, "a"), tree.is_within("a", "x")))
    assert tree.below("x") == set()
