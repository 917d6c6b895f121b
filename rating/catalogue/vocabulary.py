"""Numbers for names: counters refer to a name by its number, in order of first appearance. Names are never removed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

KINDS: Final = ("accounts", "plans", "pools", "meters", "cycles", "versions", "rules", "currencies")


class Names:
    """A list of distinct names. The number of a name is its position."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = []
        self.rows: dict[str, int] = {}
        for name in names:
            self.row(name)

    def __len__(self) -> int:
        return len(self.names)

    def row(self, name: str) -> int:
        """Return the number of the name. A new name is added and gets the next number."""
        row = self.rows.setdefault(name, len(self.names))
        if row == len(self.names):
            self.names.append(name)
        return row


class Vocabulary:
    """The names of a state: accounts, plans, pools, meters, cycles, plan versions, rules and currencies.

    Pools include those of devices, named `device:<id>`. A cycle is written `<months>/<anchor day>`, a plan version
    `<plan>@<version>`.
    """

    def __init__(self, names: dict[str, list[str]] | None = None) -> None:
        kept = names or {}
        self.accounts = Names(kept.get("accounts", ()))
        self.plans = Names(kept.get("plans", ()))
        self.pools = Names(kept.get("pools", ()))
        self.meters = Names(kept.get("meters", ()))
        self.cycles = Names(kept.get("cycles", ()))
        self.versions = Names(kept.get("versions", ()))
        self.rules = Names(kept.get("rules", ()))
        self.currencies = Names(kept.get("currencies", ()))

    def to_dict(self) -> dict[str, list[str]]:
        """Return every list of names, for the snapshot."""
        return {kind: list(getattr(self, kind).names) for kind in KINDS}

    def copy(self) -> Vocabulary:
        """Return an independent copy of the names."""
        return Vocabulary(self.to_dict())
