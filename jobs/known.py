"""Checks of names against the catalogue, so that a typing error gives an error and not an empty list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rating.catalogue.account_tree import AccountTree
from rating.errors import UsageError

if TYPE_CHECKING:
    import polars as pl


def unknown(noun: str, found: str, known: Iterable[str]) -> UsageError:
    """Return the error for an unknown name. It lists the known names or the nearest ones. `noun` is, e.g., "a plan"."""
    from pipeline.catalogue.findings import choice  # only an error needs what reads catalogue files

    return UsageError(f"found {noun.split(' ', 1)[1]} {found!r}; expected {choice(found, known, f'{noun}: one of')}")


def require_known(noun: str, name: str | None, known: Iterable[str]) -> None:
    """Raise UsageError if `name` is not None and not in `known`."""
    names = set(known)
    if name is not None and name not in names:
        raise unknown(noun, name, names)


def account_tree(accounts: pl.DataFrame, account: str) -> list[str]:
    """Return `account` and all accounts below it, sorted. Raises UsageError if the account does not exist."""
    known = accounts["account_id"].to_list()
    if account not in known:
        raise unknown("an account", account, known)
    tree = AccountTree(dict(accounts.select("account_id", "parent").iter_rows()))
    return sorted({account, *tree.below(account)})
