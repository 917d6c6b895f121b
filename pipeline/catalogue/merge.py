"""Merge of a set of files with the catalogue in force: the entries that will be in force afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import msgspec

from pipeline.catalogue.findings import Entry
from rating.catalogue.account_tree import AccountTree
from schemas.cards import Account, Catalogue, Pool
from schemas.plans import Plan, ZoneSet

T = TypeVar("T", Account, ZoneSet, Plan, Pool)


@dataclass(frozen=True)
class Known:
    """Every id that a reference may name. The value is None for an entry of the set that has a wrong shape."""

    accounts: Mapping[str, Account | None]
    zones: Mapping[str, ZoneSet | None]
    plans: Mapping[str, Plan | None]
    pools: Mapping[str, Pool | None]
    accounts_in_force: Mapping[str, Account]
    plans_in_force: Mapping[str, Plan]
    pools_in_force: Mapping[str, Pool]

    @cached_property
    def account_tree(self) -> AccountTree:
        """The tree of all accounts; one without a right shape has no parent."""
        return AccountTree({name: None if one is None else one.parent for name, one in self.accounts.items()})


def merge(
    in_force: Catalogue,
    tables: Mapping[str, Sequence[Entry[dict[str, Any]]]],
    accounts: Sequence[Entry[Account]],
    zones: Sequence[Entry[ZoneSet]],
    plans: Sequence[Entry[Plan]],
    pools: Sequence[Entry[Pool]],
) -> Known:
    """Return the merged entries. `tables` has all entries of the set as written; the others have the right shape."""
    plans_in_force = {plan.id: plan for plan in in_force.plans}
    merged_plans = _merged(in_force.plans, tables["plans"], plans)
    for entry in plans:
        merged_plans[entry.value.id] = _with_versions(entry.value, plans_in_force.get(entry.value.id))
    return Known(
        accounts=_merged(in_force.accounts, tables["accounts"], accounts),
        zones=_merged(in_force.zones, tables["zones"], zones),
        plans=merged_plans,
        pools=_merged(in_force.pools, tables["pools"], pools),
        accounts_in_force={account.id: account for account in in_force.accounts},
        plans_in_force=plans_in_force,
        pools_in_force={pool.id: pool for pool in in_force.pools},
    )


def _merged(
    in_force: Iterable[T], written: Sequence[Entry[dict[str, Any]]], shaped: Sequence[Entry[T]]
) -> dict[str, T | None]:
    merged: dict[str, T | None] = {document.id: document for document in in_force}
    merged.update({entry.value["id"]: None for entry in written if isinstance(entry.value.get("id"), str)})
    merged.update({entry.value.id: entry.value for entry in shaped})
    return merged


def _with_versions(plan: Plan, in_force: Plan | None) -> Plan:
    """Return the plan with the versions in force that the file does not define again."""
    if in_force is None:
        return plan
    versions = {version.version: version for version in (*in_force.versions, *plan.versions)}
    return msgspec.structs.replace(plan, versions=tuple(versions[number] for number in sorted(versions)))
