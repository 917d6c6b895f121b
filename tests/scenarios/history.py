"""What a driver left, cut by scenarios and freed of what drivers may differ in: where in the journal something stands.

Ids of firings and actions are made of places in the journal. They become names made of SIM, rule and how often the
rule has fired for the SIM, so that what names what is compared.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import polars as pl

from tests.scenarios.drivers import Found
from tests.scenarios.stories import Scenario, Singles

_PLACES: Final = ("journal_partition", "journal_offset")
_OF_FILES: Final = ("source", "source_row")


class History:
    """The rows of a driver, with names in the place of ids."""

    def __init__(self, tables: Found) -> None:
        self.tables = dict(tables)
        self._name_firings()
        self._name_actions()

    def _name_firings(self) -> None:
        firings = self.tables["firings"].sort("iccid", *_PLACES, "firing_id")
        named = firings.with_columns(
            name=pl.concat_str("iccid", "rule_id", pl.int_range(pl.len()).over("iccid", "rule_id"), separator="/")
        )
        assert named["firing_id"].is_unique().all()
        self._firing = dict(named.select("firing_id", "name").iter_rows())
        self.tables["firings"] = named.with_columns(firing_id="name").drop("name")

    def _name_actions(self) -> None:
        actions = self.tables["actions"]
        assert actions["action_id"].is_unique().all()
        firing = actions["firing_id"].replace_strict(self._firing, return_dtype=pl.String)
        named = actions.with_columns(firing_id=firing).with_columns(
            name=pl.concat_str("firing_id", "sequence", separator="#")
        )
        self.action: dict[str, str] = dict(named.select("action_id", "name").iter_rows())
        self.tables["actions"] = named.with_columns(action_id="name").drop("name")
        results = self.tables["results"]
        self.tables["results"] = results.with_columns(pl.col("action_id").replace(self.action))

    def of(self, scenario: Scenario, name: str) -> list[dict[str, Any]]:
        """The rows of a table that are the scenario's: each SIM's in their order, rejects in any."""
        table = self.tables[name]
        if name == "rejected":
            return self._rejected(scenario)
        if name == "charges":
            return self._charges(scenario)
        table = table.filter(pl.col("iccid").str.starts_with(scenario.sims))
        order = ["part"] if name == "rated" else []
        table = table.sort("iccid", *_PLACES, *order, maintain_order=True).drop(_PLACES)
        rows = table.to_dicts()
        for row in rows:
            if name == "rated" and self._is_single(row["source"]):
                row |= dict.fromkeys(_OF_FILES)
        return rows

    def _charges(self, scenario: Scenario) -> list[dict[str, Any]]:
        """Charges of the scenario's accounts. Drivers tick at different moments, so the closing time is left out."""
        account = pl.col("account_id")
        own = self.tables["charges"].filter((account == scenario.name) | account.str.starts_with(f"{scenario.name}-"))
        return sorted(own.drop(*_PLACES, "charge_id", "closed_at").to_dicts(), key=repr)

    def _rejected(self, scenario: Scenario) -> list[dict[str, Any]]:
        lines = {line for told in scenario.happenings if isinstance(told, Singles) for line in told.lines}
        rows = []
        for row in self.tables["rejected"].iter_rows(named=True):
            if self._is_single(row["source"]):
                if row["raw"] not in lines:
                    continue
                # A topic and a file identify the position of a record differently.
                row = row | dict.fromkeys(_OF_FILES) | {"reject_id": row["reject_id"].split(":")[2:]}
            elif not row["source"].startswith(f"{scenario.name}-"):
                continue
            rows.append(row)
        return sorted(rows, key=repr)

    @staticmethod
    def _is_single(source: str) -> bool:
        return source.endswith(".singles.csv") or "usage.raw[" in source


def summary(history: History, scenario: Scenario, records: int) -> dict[str, Any]:
    """Figures of a scenario of so many records by name, those that `Scenario.expects` may hold."""
    rated = history.of(scenario, "rated")
    usage = [row for row in rated if row["kind"] == "usage"]
    rejected = history.of(scenario, "rejected")
    # A replacement is one record that gives two rows; of single records the key must do.
    taken = {(row["source"] or row["record_key"], row["source_row"]) for row in rated}
    return {
        "rated": len(usage),
        "charged": sum(row["charge_nanos"] for row in rated),
        "reversed": sum(row["kind"] == "reversal" for row in rated),
        "late": sum(row["late"] for row in usage),
        "duplicates": records - len(taken) - len(rejected),
        "rejected": dict(Counter(row["reason"] for row in rejected)),
        "gaps": len(history.of(scenario, "gaps")),
        "firings": dict(Counter(row["rule_id"] for row in history.of(scenario, "firings"))),
        "actions": dict(Counter(row["action"] for row in history.of(scenario, "actions"))),
        "results": len(history.of(scenario, "results")),
    }
