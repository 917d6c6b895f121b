"""Evaluation of the rules on journal entries: the only place where their stages are composed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from rating.apply import Compiled
from rating.columnar.key_index import Ints
from rating.rules.active_rule import Watch
from rating.rules.active_rules import RuleSet
from rating.rules.commands.card_changes import Change
from rating.rules.commands.card_lists import lift_listed, merged
from rating.rules.commands.results import Results
from rating.rules.detect.changes import change_fires, plans_now
from rating.rules.detect.events import event_fires, traffic_fires
from rating.rules.detect.intake import Home, traffic_of
from rating.rules.detect.last_seen import needs
from rating.rules.detect.releases import release_fires, settle_fires
from rating.rules.detect.timers import tick_fires
from rating.rules.detect.usage import adjust, backfill, drop_unwatched, expire, usage_fires
from rating.rules.firing.firings import Fires
from rating.rules.firing.holding import take_holds
from rating.rules.firing.tables import FiredOn, Outcome
from rating.state import State
from rating.usage.batch import RatedBatch
from rating.usage.rated_rows import Names
from schemas.commands import Command, NetworkEvent
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
            plan = plans_now(self.set, state.clock_us)
            state.rules.sightings.follow(wanted, compiled.directory.cards["imei"], plan, state.clock_us)
        drop_unwatched(self.set, state.rules)
        quota = self.set.quota
        self._home = Home(quota.home_meters(Service.DATA, None), quota.all_pool_meters())
        # Only these rules need to know whether a session is new.
        self.hears_sessions = any(watch.trigger.hears_sessions for watch in self.set.watches)

    def listed(self, cards: pl.DataFrame, change: pl.DataFrame) -> pl.DataFrame:
        """Return the cards of a list as they take effect, and lift the holds that the list ends.

        `cards` are those in force, `change` those of the list (CARD_SCHEMA). What results and actions have set stays,
        unless the list says something new.
        """
        change, self.state.rules.listed = merged(change, cards, self.state.rules.listed)
        return lift_listed(self.set, self.state.rules, change)

    def _held(self, fires: list[Fires]) -> list[Fires]:
        """Put and lift the holds that firings ask for; return the firings."""
        return take_holds(self.set, self.state.rules.holds, fires)

    @property
    def _concerned(self) -> bool:
        """True if an entry can fire something: a rule is active, or an inactive one still holds SIMs."""
        return bool(self.set.watches or self.set.resting)

    def results(self, results: Sequence[tuple[int, str, Command]], today: Sequence[dt.date]) -> list[Change | None]:
        """Apply results of actions (offset, ICCID, result) to the holds; return the change of each card, or None.

        Each card occurs at most once and is in the directory. `today` is the local day of each.
        """
        taker = Results(self.set, self.state.rules, [iccid for _, iccid, _ in results])
        changes = [
            taker.take(place, offset, command, day)
            for place, ((offset, _, command), day) in enumerate(zip(results, today, strict=True))
        ]
        taker.close()
        return changes

    def usage(self, result: RatedBatch) -> Outcome:
        """The outcome of a batch of usage."""
        batch = result.usage.batch
        if not self._concerned:
            return self.outcome(Found(), batch.received_at_us)
        traffic = traffic_of(self._home, self.names, self.set.book.rates.meter, result, self.state.clock_us)
        found = Found()
        fires = traffic_fires(self.set, self.state.rules, traffic)
        fires += usage_fires(self.set, self.state.rules, traffic)
        found.add(self.set, self._held(fires))
        keys = batch.rows["record_key"]
        return self.outcome(found, batch.received_at_us, keys)

    def adjust(self, added: Sequence[pa.Table], counted: pa.Table | None = None) -> None:
        """Add rated rows (RATED) to the totals of the rules, and take rows that were `counted` off (F6).

        Reversals and adjustments have negative units if they take something back. `settle` has to follow.
        """
        if self._concerned:
            adjust(self.set, self.state.rules, added, [] if counted is None else [counted])

    def settle(self, adjusted: Sequence[pa.Table], at_us: int, offset: int) -> Outcome:
        """The outcome of adjusted usage (rows of RATED): releases of SIMs below their thresholds again."""
        found = Found()
        iccids = {iccid for rows in adjusted for iccid in rows["iccid"].unique().to_pylist()}
        cards = self.set.directory.rows_of(pl.Series(sorted(iccids), dtype=pl.String)) if iccids else ()
        for card in cards:
            found.add(self.set, settle_fires(self.set, self.state.rules, int(card), self.state.clock_us, offset))
        return self.outcome(found, at_us)

    def tick(self, now_us: int, offset: int, found: Found) -> None:
        """Add the firings of timers that are due, then drop totals whose window is over."""
        if self._concerned:
            found.add(self.set, tick_fires(self.set, self.state.rules, now_us, offset))
            expire(self.set, self.state.rules, now_us)
        self.state.rules.holds.expire()

    def recovered(self, now_us: int, offset: int, found: Found) -> None:
        """Add the releases of SIMs that the catalogue has put below their threshold again (L2)."""
        if self._concerned:
            found.add(self.set, release_fires(self.set, self.state.rules, now_us, offset))

    def changes(self, before: pl.DataFrame, after: pl.DataFrame, offset: Ints | int, now_us: int, found: Found) -> None:
        """Add the firings of cards that a catalogue or the result of an action changed.

        `before` and `after` have the columns of CARD_SCHEMA and one row per card. `offset` is one offset, or one for
        each row of `after`.
        """
        if self.set.watches or len(self.state.rules.sightings):
            fires = change_fires(self.set, self.state.rules, before, after, offset, now_us)
            found.add(self.set, self._held(fires))

    def events(self, events: Sequence[NetworkEvent], offsets: Ints, now_us: int, found: Found) -> None:
        """Add the firings of network events. `offsets` (int64[n]) has the offset of each event."""
        if self.set.watches:
            fires = event_fires(self.set, self.state.rules, events, offsets, now_us)
            found.add(self.set, self._held(fires))

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
