"""References of rules and limits: accounts and sub-accounts, SIMs, pools, plans and zones."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from pipeline.catalogue.findings import Entry, Findings, T, Text, choice
from pipeline.catalogue.lines import Path
from pipeline.catalogue.merge import Known
from schemas.usage import Service


class References:
    """The names that a rule or a limit of a set may refer to, and checks against them."""

    def __init__(self, known: Known, cards: pl.DataFrame, iccids: Iterable[str]) -> None:
        """Index the references of a set.

        `cards` are all cards after this catalogue, with columns iccid and account. `iccids` are the SIMs that rules and
        limits name.
        """
        self.known = known
        wanted = pl.DataFrame({"iccid": list(iccids)}, schema={"iccid": pl.String})
        found = cards.join(wanted, on="iccid", how="semi").select("iccid", "account")
        self._accounts: dict[str, str | None] = dict(found.iter_rows())
        sets = known.zones.values()
        # A zone set of wrong shape may have any zone names. The finding about its shape is enough.
        self.zones = None if None in sets else {zone.name for one in sets if one is not None for zone in one.zones}

    def is_within(self, account: str | None, owner: str) -> bool:
        """Return whether an account is `owner`, or below it at any depth."""
        return self.known.account_tree.is_within(account, owner)

    def is_below(self, account: str | None, owner: str) -> bool:
        """Return whether an account is below `owner`, and not `owner` itself."""
        return account != owner and self.known.account_tree.is_within(account, owner)

    def below(self, owner: str) -> set[str]:
        """Return the accounts below `owner`."""
        return self.known.account_tree.below(owner)

    def check_account(self, entry: Entry[T], field: Path, account: str | None, findings: Findings) -> None:
        """Add a finding if there is no such account. None is right."""
        if account is not None and account not in self.known.accounts:
            expected = choice(account, self.known.accounts, "an account: one of")
            findings.add(entry, field, account, expected)

    def check_plan(self, entry: Entry[T], field: Path, plan: str | None, findings: Findings) -> None:
        """Add a finding if there is no such plan. None is right."""
        if plan is not None and plan not in self.known.plans:
            findings.add(entry, field, plan, choice(plan, self.known.plans, "a plan: one of"))

    def check_zone(self, entry: Entry[T], field: Path, zone: str, findings: Findings) -> None:
        """Add a finding if no zone set has a zone of this name."""
        if self.zones is not None and zone not in self.zones:
            findings.add(entry, field, zone, choice(zone, self.zones, "a zone: one of"))

    def check_sims(self, entry: Entry[T], sims: tuple[str, ...], owner: str | None, findings: Findings) -> None:
        """Add a finding for each SIM that does not exist, is named twice, or does not belong to the owner."""
        seen: set[str] = set()
        for index, iccid in enumerate(sims):
            field = ("sims", index)
            if iccid not in self._accounts:
                findings.add(entry, field, iccid, "the ICCID of a card in these files or in force")
            elif iccid in seen:
                findings.add(entry, field, iccid, "each SIM once")
            elif owner in self.known.accounts and not self.is_within(self._accounts[iccid], str(owner)):
                found = Text(f"{iccid} of account {self._accounts[iccid]}")
                findings.add(entry, field, found, f"a SIM of account {owner} or of one below it")
            seen.add(iccid)

    def check_pools(self, entry: Entry[T], pools: tuple[str, ...], owner: str | None, findings: Findings) -> None:
        """Add a finding for each pool that does not exist, is named twice, or does not belong to the owner."""
        known = self.known.pools
        for index, name in enumerate(pools):
            field = ("pools", index)
            pool = known.get(name)
            if name not in known:
                findings.add(entry, field, name, choice(name, known, "a pool: one of"))
            elif name in pools[:index]:
                findings.add(entry, field, name, "each pool once")
            elif pool is not None and owner in self.known.accounts and not self.is_within(pool.account, str(owner)):
                found = Text(f"{name} of account {pool.account}")
                findings.add(entry, field, found, f"a pool of account {owner} or of one below it")

    def check_shared(
        self, entry: Entry[T], pools: tuple[str, ...], service: Service | None, findings: Findings
    ) -> None:
        """Add a finding for each pool that does not share the service of a rule: it would never fire for it."""
        for index, name in enumerate(pools):
            pool = self.known.pools.get(name)
            if pool is not None and service is not None and service.name.lower() not in pool.services:
                found = Text(f"{name}, which shares {', '.join(pool.services)}")
                findings.add(entry, ("pools", index), found, f"a pool that shares {service.name.lower()}")
