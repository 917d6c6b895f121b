"""Evaluation of the rules on journal entries: the only place where their stages are composed."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.columnar.key_index import Ints
from rating.rules.active_rule import Watch
from rating.rules.active_rules import RuleSet
from rating.rules.detect.events import change_fires, event_fires, traffic_fires
from rating.rules.detect.intake import Home, traffic_of
from rating.rules.detect.last_seen import needs
from rating.rules.detect.timers import release_fires, tick_fires
from rating.rules.detect.usage import adjust, backfill, drop_unwatched, expire, usage_fires
from rating.rules.firing.firings import Fires
from rating.rules.firing.tables import FiredOn, Outcome
from rating.state import State
from rating.usage.batch import RatedBatch
from rating.usage.rated_rows import Names
from schemas.commands import NetworkEvent
from schemas.usage import Service


class Found:
    """Collects the firings of one entry, with the rules as they were when they fired."""

    def __init__(self) -> None:
        self.fires: list[Fires] = []
        self.watches: dict[int, Watch] = {}

    def add(self, ruleset: RuleSet, fires: list[Fires]) -> None:
        """Add the firings of a rule set."""
        if fires:
            self.fires += fires
            self.watches |= ruleset.by_row


class Rules:
    """The rules of a state, with one method for each kind of entry.

    Every method updates the state of the rules, and returns the firings or adds them to a Found. Offsets are journal
    offsets.
    """

    def __init__(
        self, state: State, compiled: Compiled, names: Names, partition: int, former: Rules | None = None
    ) -> None:
        self.state = state
        self.names = names
        self.partition = partition
        self.set: RuleSet = RuleSet(state, compiled, names.zones, former.set if former is not None else None)
        wanted = needs(self.set.watches)
        if wanted or len(state.rules.sightings):
            state.rules.sightings.follow(wanted, compiled.directory.cards["imei"], state.clock_us)
        drop_unwatched(self.set, state.rules)
        self._home_meters = self.set.quota.home_meters(Service.DATA, None)
        # Only these rules need to know whether a session is new.
        self.hears_sessions = any(watch.trigger.hears_sessions for watch in self.set.watches)

    def usage(self, result: RatedBatch) -> Outcome:
        """The outcome of a batch of usage."""
        batch = result.usage.batch
        if not self.set.watches:
            return self.outcome(Found(), batch.received_at_us)
        home = Home(self.set.quota.home_slot(), self._home_meters)
        traffic = traffic_of(home, self.names, self.set.book.rates.meter, result, self.state.clock_us)
        found = Found()
        found.add(self.set, traffic_fires(self.set, self.state.rules, traffic))
        found.add(self.set, usage_fires(self.set, self.state.rules, traffic))
        keys = batch.rows["record_key"]
        return self.outcome(found, batch.received_at_us, keys)

    def adjust(self, added: Sequence[pa.Table], counted: pa.Table | None = None) -> None:
        """Add rated rows (RATED) to the totals of the rules, and take rows that were `counted` off (F6). Nothing fires.

        Reversals and adjustments have negative units if they take something back.
        """
        if self.set.watches:
            adjust(self.set, self.state.rules, added, [] if counted is None else [counted])

    def tick(self, now_us: int, offset: int, found: Found) -> None:
        """Add the firings of timers that are due, then drop totals whose window is over."""
        if self.set.watches:
            found.add(self.set, tick_fires(self.set, self.state.rules, now_us, offset))
            expire(self.set, self.state.rules, now_us)

    def recovered(self, now_us: int, offset: int, found: Found) -> None:
        """Add the releases of SIMs that the catalogue has put below their threshold again (L2)."""
        if self.set.watches:
            found.add(self.set, release_fires(self.set, self.state.rules, now_us, offset))

    def changes(self, before: pl.DataFrame, after: pl.DataFrame, offset: Ints | int, now_us: int, found: Found) -> None:
        """Add the firings of cards that a catalogue or the result of an action changed.

        `before` and `after` have the columns of CARD_SCHEMA and one row per card. `offset` is one offset, or one for
        each row of `after`.
        """
        if self.set.watches:
            found.add(self.set, change_fires(self.set, self.state.rules, before, after, offset, now_us))

    def events(self, events: Sequence[NetworkEvent], offsets: Ints, now_us: int, found: Found) -> None:
        """Add the firings of network events. `offsets` (int64[n]) has the offset of each event."""
        if self.set.watches:
            found.add(self.set, event_fires(self.set, self.state.rules, events, offsets, now_us))

    def backfill(self, rules: Sequence[str], baseline: pl.DataFrame | None) -> None:
        """Fill the totals of newly activated rules from the usage in the history (BASELINE columns)."""
        watches = [watch for watch in self.set.watches if watch.rule.id in rules]
        if baseline is not None and watches:
            backfill(self.set, self.state.rules, baseline, watches)

    def outcome(self, found: Found, at_us: int, record_keys: pl.Series | None = None) -> Outcome:
        """What was found as it leaves; what actions tell a card is noted for the next entry that is no usage."""
        entry = FiredOn(self.partition, at_us, record_keys)
        outcome = Outcome(found.watches, found.fires, self.set.directory, self.set.vocabulary, entry)
        notes = outcome.notes
        if len(notes):
            self.state.rules.notes = pl.concat([self.state.rules.notes, notes])
        return outcome
