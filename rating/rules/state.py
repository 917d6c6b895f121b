"""State of the rules from one journal entry to the next: active rules, totals, last-seen facts, and past firings."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from rating.queried_state import ActiveRules
from rating.rules.commands.card_changes import NOTE_SCHEMA, no_notes
from rating.rules.commands.card_lists import LISTED_SCHEMA, none_listed
from rating.rules.detect.last_seen import Sightings
from rating.rules.firing.repetition import Memory
from rating.rules.holds import Holds
from rating.rules.totals.cycle_and_day import Totals
from rating.rules.totals.rolling import Rolling


@dataclass
class RuleState(ActiveRules):
    """State of the rules.

    `notes` (NOTE_SCHEMA) are changes of tags and custom fields that the next entry other than usage will apply to the
    cards. `listed` (LISTED_SCHEMA) is what card lists last said of the cards that results and actions have changed.
    """

    memory: Memory = field(default_factory=Memory)
    totals: Totals = field(default_factory=Totals)
    rolling: Rolling = field(default_factory=Rolling)
    sightings: Sightings = field(default_factory=Sightings)
    notes: pl.DataFrame = field(default_factory=no_notes)
    listed: pl.DataFrame = field(default_factory=none_listed)

    def tables(self) -> dict[str, pa.Table]:
        """Return all of the state except `active`, as tables of a snapshot."""
        return {
            "rule_memory": self.memory.to_table(),
            "rule_totals": self.totals.to_table(),
            "rule_rolling": self.rolling.to_table(),
            "rule_holds": self.holds.to_table(),
            "rule_listed": self.listed.sort("iccid").to_arrow(compat_level=pl.CompatLevel.oldest()),
            "rule_notes": self.notes.to_arrow(compat_level=pl.CompatLevel.oldest()),
            **self.sightings.to_tables(),
        }

    @classmethod
    def restore(cls, active: dict[str, int], tables: dict[str, pa.Table]) -> RuleState:
        """Return the state from `active` and the tables that `tables` returned.

        A snapshot of before there were holds has no table of them. The state has no holds then; see `Holds.of_former`.
        """
        notes = pl.from_arrow(tables["rule_notes"])
        assert isinstance(notes, pl.DataFrame)
        return cls(
            active=dict(active),
            memory=Memory.from_table(tables["rule_memory"]),
            totals=Totals.from_table(tables["rule_totals"]),
            rolling=Rolling.from_table(tables["rule_rolling"]),
            sightings=Sightings.from_tables(tables),
            notes=notes.cast(NOTE_SCHEMA),  # type: ignore[arg-type]
            holds=Holds.from_table(tables["rule_holds"]) if "rule_holds" in tables else Holds(),
            listed=_listed(tables["rule_listed"]) if "rule_listed" in tables else none_listed(),
        )


def _listed(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame.cast(LISTED_SCHEMA)  # type: ignore[arg-type]
