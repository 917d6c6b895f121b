"""Allowances: how many units of each record come from which allowance, in burn order (P6).

Burn order is the order in which allowances are used up: first the test allowance, then that of the plan or pool, then
add-ons by earliest expiry and then purchase. A bucket is one allowance of one subject. It gives its units to records
in journal order until it is empty. A record draws what it still needs from the next bucket. The rest is overage, which
is priced.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from copy import copy

import numpy as np
import numpy.typing as npt

from rating.catalogue.cards import Directory
from rating.catalogue.rates import SERVICES, Book
from rating.columnar.groups import Groups
from rating.columnar.key_index import Ints
from rating.dedupe.seen import DAY_US
from rating.units.quantity import parse_quantity
from schemas.cards import Addon


def draw(groups: Groups, held: Ints, wanted: Ints, size: Ints) -> tuple[Ints, Ints]:
    """Draw units from buckets, one bucket per group.

    `held[g]` is the number of units already taken from each bucket. `wanted[n]` are the units that each record needs,
    `size[n]` is the size of its bucket at that moment; both in batch order. Returns the units that each record takes,
    int64[n] in batch order, and the new total taken from each bucket, int64[g].
    """
    want, room = wanted[groups.order], size[groups.order]
    if not len(want):
        return want, held
    changes = np.zeros(len(room), np.int64)
    changes[1:] = (room[1:] != room[:-1]) & (groups.segment[1:] == groups.segment[:-1])
    if not changes.any():
        taken = np.clip(room - groups.before(want, held), 0, want)
        return groups.scatter(taken), held + groups.totals(taken)
    # If a bucket changes its size within the batch, draw size by size, as if the batch ended at each change.
    stretch = np.cumsum(changes)
    stretch -= stretch[groups.starts][groups.segment]
    held, taken = held.copy(), np.zeros_like(want)
    for number in range(int(stretch.max()) + 1):
        at = np.flatnonzero(stretch == number)
        part = Groups.of(groups.segment[at])
        taken[at], held[part.keys] = draw(part, held[part.keys], want[at], room[at])
    return groups.scatter(taken), held


class Addons:
    """The add-ons of all cards, and the units used of each.

    Columns have one element per add-on, in the order of the catalogue: `units`, `used`, `purchased_us` (microseconds
    since 1970 UTC), `purchased_day` and `expires_day` (first and last local day, days since 1970), and `account` and
    `version` (account and plan version of its card on the day of purchase, -1: none). The version says how large a KB,
    MB or GB of the add-on is.
    """

    def __init__(self, addons: tuple[Addon, ...], book: Book, directory: Directory, used: dict[str, int]) -> None:
        card_of = {iccid: row for row, iccid in enumerate(directory.cards["iccid"])} if addons else {}
        self.addons = addons
        self.card = np.array([card_of.get(addon.iccid, -1) for addon in addons], np.int64)
        self.service = np.array([SERVICES[addon.service] for addon in addons], np.int64)
        self.purchased_us = np.array([_instant_us(addon.purchased_at) for addon in addons], np.int64)
        self.purchased_day, self.account, self.version = _purchases(book, directory, self.card, self.purchased_us)
        bases = [1024 if row < 0 else book.versions[row][1].data_base for row in self.version.tolist()]
        self.units = np.array(
            [parse_quantity(addon.amount, addon.service, base) for addon, base in zip(addons, bases, strict=True)],
            np.int64,
        )
        self.expires_day = np.array([(addon.expires_on - _EPOCH).days for addon in addons], np.int64)
        self.used = np.array([used.get(addon.id, 0) for addon in addons], np.int64)
        self._order = np.lexsort((self.purchased_us, self.expires_day, self.card)) if addons else np.zeros(0, np.int64)
        self._first = np.searchsorted(self.card[self._order], np.arange(len(directory)))
        self._count = np.bincount(self.card[self.card >= 0], minlength=len(directory))

    def draw(self, card: Ints, service: Ints, used_us: Ints, day: Ints, wanted: Ints) -> Ints:
        """Return the units that each record takes from the active add-ons of its card, int64[n], and count them (C5).

        An add-on is active from its purchase to the end of its last local day.
        """
        taken = np.zeros_like(wanted)
        if not len(self.addons):
            return taken
        asking = np.flatnonzero((wanted > 0) & (self._count[card] > 0))
        for at, addon in self._acting(asking, card, service, used_us, day):
            groups = Groups.of(addon)
            part, self.used[groups.keys] = draw(
                groups, self.used[groups.keys], wanted[at] - taken[at], self.units[addon]
            )
            taken[at] += part
        return taken

    def bought(self, card: Ints, service: int, now_us: int, day: Ints) -> Ints:
        """Return the units, used or not, of each card's add-ons that are active at `now_us`, int64[n] (C5).

        `day` is the local day of that instant for each card.
        """
        units = np.zeros(len(card), np.int64)
        if len(self.addons):
            asking = np.flatnonzero(self._count[card] > 0)
            now, of_service = np.full(len(card), now_us, np.int64), np.full(len(card), service, np.int64)
            for at, addon in self._acting(asking, card, of_service, now, day):
                units[at] += self.units[addon]
        return units

    def left(self, card: Ints, service: int, now_us: int, day: Ints) -> Ints:
        """Return the units that each card's active add-ons still have, int64[n]; the rest as in `bought`."""
        units = np.zeros(len(card), np.int64)
        if len(self.addons):
            asking = np.flatnonzero(self._count[card] > 0)
            now, of_service = np.full(len(card), now_us, np.int64), np.full(len(card), service, np.int64)
            for at, addon in self._acting(asking, card, of_service, now, day):
                units[at] += self.units[addon] - self.used[addon]
        return units

    def _acting(self, asking: Ints, card: Ints, service: Ints, at_us: Ints, day: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Yield (rows, active add-on of each row) in burn order, one pass per add-on of a card.

        `asking` are the rows to look at. A row is yielded once for each of its active add-ons.
        """
        for place in range(int(self._count[card[asking]].max(initial=0))):
            at = asking[self._count[card[asking]] > place]
            addon = self._order[self._first[card[at]] + place]
            acts = (
                (self.service[addon] == service[at])
                & (self.purchased_us[addon] <= at_us[at])
                & (day[at] <= self.expires_day[addon])
            )
            yield at[acts], addon[acts]

    def owned(self, cards: Ints) -> npt.NDArray[np.bool_]:
        """Return whether each card has an add-on, bool[n]."""
        return self._count[cards] > 0

    def using(self, used: Ints) -> Addons:
        """Return the same add-ons with `used` units of each. The original and the result are counted apart."""
        other = copy(self)
        other.used = used
        return other

    def unused_by(self, cards: Ints) -> Ints:
        """Return the units used of each add-on, int64[addons], as if these cards had used nothing."""
        return np.where(np.isin(self.card, cards), 0, self.used)

    def usage(self) -> dict[str, int]:
        """Return the units used of each add-on that has been drawn on, by id."""
        return {addon.id: int(units) for addon, units in zip(self.addons, self.used, strict=True) if units}


_EPOCH = dt.date(1970, 1, 1)


def _instant_us(moment: dt.datetime) -> int:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    return (aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _purchases(book: Book, directory: Directory, card: Ints, us: Ints) -> tuple[Ints, Ints, Ints]:
    """Return local day, account and plan version of each purchase, int64[n] each.

    Account and version (-1: none) are those that the card had on that day.
    """
    day, account, version = us // DAY_US, np.full(len(card), -1, np.int64), np.full(len(card), -1, np.int64)
    known = np.flatnonzero(card >= 0)
    account[known] = directory.account[card[known]]
    for _ in range(2):  # the day says the account, whose time zone says the day
        zone = book.account_zone[account[known]]
        for row in np.unique(zone).tolist():
            own = known[zone == row]
            day[own] = book.time_zones[row].local_day(us[own])
        account[known] = directory.accounts.at(card[known], day[known])
    version[known] = book.version_of(directory.plans.at(card[known], day[known]), day[known])
    return day, account, version


def trial_days(book: Book, directory: Directory, card: Ints, version: Ints, day: Ints) -> tuple[Ints, Ints]:
    """Return the first and last local day on which each card may use its test allowance, int64[n] each (C2).

    The last day is before the first if there is no such day. The test period ends on the day before the activation
    that the card has on the local day `day`.
    """
    first = directory.test_from[card]
    months = book.test_months[version]
    begins = first.astype("datetime64[D]")
    month = begins.astype("datetime64[M]")
    last = (
        (month + months).astype("datetime64[D]").astype(np.int64)
        + (begins - month.astype("datetime64[D]")).astype(np.int64)
        - 1
    )
    last = np.minimum(last, directory.activations.at(card, day) - 1)
    return first, np.where(book.test_units[version] > 0, last, first - 1)
