"""Acceptance: decide which records of a batch are rated, duplicates or rejected (F4, F5).

Each record ends as exactly one of the three, whatever batch it arrives in. A record whose key was accepted before is
a duplicate. If its content differs, it is rejected as a conflict. This is so even if the record could not be rated
today. The key of a record that cannot be rated is not remembered, so the record can be corrected and sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from rating.apply import Compiled
from rating.calendars.calendar import FIRST_DAY, LAST_DAY, ZoneCalendar
from rating.catalogue.cards import Directory
from rating.catalogue.rates import Book
from rating.columnar.arrow import numbers
from rating.columnar.key_index import Ints
from rating.dedupe.digests import NUMBERS, Prints
from rating.dedupe.seen import DAY_US, Seen, first_in_batch, order_of
from schemas.usage import REJECT_SCHEMA, Direction, Service, UsageBatch

FUTURE_US: Final = 3_600_000_000  # a record may be dated at most one hour ahead of its arrival (T5)
# `local_days` makes a table of midnights if the range of days is at most this much longer than the number of records.
_FEW_DAYS: Final = 1 << 10

_FINE, _UNKNOWN_CARD, _TOO_LARGE, _FUTURE, _NO_PLAN, _NO_RATE, _DUPLICATE, _CONFLICT = range(8)
_REASONS: Final = {
    _UNKNOWN_CARD: "unknown_card",
    _TOO_LARGE: "bad_value",
    _FUTURE: "future",
    _NO_PLAN: "no_plan",
    _NO_RATE: "no_rate",
    _CONFLICT: "conflict",
}
# The wrong column of usage. The number of a card is the first that the record carries.
_FIELDS: Final = {
    _TOO_LARGE: "quantity",
    _FUTURE: "used_at",
    _NO_RATE: "plmn",
    _CONFLICT: "record_key",
}


@dataclass(frozen=True)
class Accepted:
    """The accepted records, in journal order. Columns are int64 with one element per record unless noted."""

    place: Ints  # row in the batch
    card: Ints
    account: Ints
    plan: Ints
    version: Ints
    day: Ints  # local day of use, days since 1970
    used_us: Ints
    service: Ints
    direction: Ints
    zone: Ints  # zone slot within the plan version, 0: no zone
    spot: Ints  # where the record was used: row in `spots`
    spots: list[tuple[str, str, str]]  # distinct (PLMN, country, zone named by the feed) of the batch

    def __len__(self) -> int:
        return len(self.place)

    def take(self, at: Ints) -> Accepted:
        """Return the records at these positions, in this order."""
        columns = {f.name: getattr(self, f.name) for f in fields(self)}
        return Accepted(**{name: c if name == "spots" else c[at] for name, c in columns.items()})


@dataclass(frozen=True)
class Acceptance:
    """The outcome of a batch: accepted records, `rejects` (REJECT_SCHEMA, source order), number of duplicates."""

    accepted: Accepted
    rejects: pl.DataFrame
    duplicates: int


def local_days(book: Book, account: Ints, us: Ints) -> Ints:
    """Return the local day of each instant in its account's time zone (T1), int64[n], days since 1970.

    `us` are microseconds since 1970 UTC, `account` the row of the account of each.
    """
    if not len(us):
        return np.zeros(0, np.int64)
    if len(book.time_zones) == 1:
        return book.time_zones[0].local_day(us).astype(np.int64)
    zone = book.account_zone[account]
    first, last = int(us.min()) // DAY_US - 1, int(us.max()) // DAY_US + 1
    if last - first > len(us) + _FEW_DAYS or first < FIRST_DAY or last > LAST_DAY:
        day = np.zeros(len(us), np.int64)
        for row, time_zone in enumerate(book.time_zones):
            at = np.flatnonzero(zone == row)
            day[at] = time_zone.local_day(us[at])
        return day
    # The local day is the UTC day or one of its neighbours, because no time zone differs from UTC by a whole day.
    midnights = np.stack([one.midnights_us(np.arange(first, last + 1)) for one in book.time_zones])
    day = us // DAY_US
    place = zone * (last - first + 1) + (day - first)
    day += us >= midnights.ravel()[place + 1]
    day -= us < midnights.ravel()[place]
    return day


def owners(book: Book, directory: Directory, card: Ints, us: Ints) -> Ints:
    """Return the account that owned each card at an instant (microseconds since 1970 UTC), int64[n].

    An account owns a card from midnight, in its own time zone, of the first day of its tenure.
    """
    account: Ints = directory.account[card]
    spells = directory.accounts.spells
    if spells is None:
        return account
    some = np.flatnonzero(directory.accounts.changed[card])
    for place, accounts in spells.in_turn(card[some]):
        at = some[place]
        reached = spells.from_day[accounts] <= local_days(book, spells.target[accounts], us[at])
        account[at[reached]] = spells.target[accounts[reached]]
    return account


def day_of_use(book: Book, directory: Directory, card: Ints, us: Ints) -> Ints:
    """Return the local day of each instant in the account that owned the card then, int64[n], days since 1970."""
    return local_days(book, owners(book, directory, card, us), us)


def local_day_at(time_zone: ZoneCalendar, us: int) -> int:
    """Return the local day of one instant (microseconds since 1970 UTC) in a time zone, as `local_days` does."""
    day = us // DAY_US
    if not FIRST_DAY < day < LAST_DAY:
        return int(time_zone.local_day(np.array([us], np.int64))[0])
    return day + (us >= time_zone.midnight_us(day + 1)) - (us < time_zone.midnight_us(day))


def accept(seen: Seen, compiled: Compiled, batch: UsageBatch, prints: Prints) -> Acceptance:
    """Judge every record of a batch, and mark the keys of the accepted records as seen.

    `prints` are the digests of the batch.
    """
    rows, book, directory = batch.rows, compiled.book, compiled.directory
    count = len(rows)
    today = batch.received_at_us // DAY_US
    high, low, content = prints.key_high, prints.key_low, prints.content
    known, known_content = seen.lookup(high, low, today)

    used_us = numbers(rows, "used_at", 0)
    card = directory.resolve(prints, lambda cards, at: day_of_use(book, directory, cards, used_us[at]))
    service = rows["service"].to_numpy().astype(np.int64)
    direction = rows["direction"].to_numpy().astype(np.int64)
    verdict = np.zeros(count, np.int8)
    unknown = card < 0
    if len(directory):
        someone = np.where(unknown, 0, card) if unknown.any() else card
        account = owners(book, directory, someone, used_us)
        day = local_days(book, account, used_us)
        plan = directory.plans.at(someone, day)
        version = book.version_of(plan, day)
        spot, spots = prints.spot, prints.spots
        slots = book.zone_slots(spots)
        zone = slots[book.version_zone_key[version], spot] if len(book.versions) else np.zeros(count, np.int64)
        rated = _rated(book, version, service, direction, zone, rows)
        verdict[~rated] = _NO_RATE
        if book.plan_stops.any():
            version[book.plan_stops[plan] & compiled.pools.service.term_ended(someone, plan, day)] = -1
        verdict[version < 0] = _NO_PLAN
    else:
        account = day = plan = version = zone = spot = np.zeros(count, np.int64)
        spots = []
    quantity = rows["quantity"].to_numpy()
    verdict[used_us > batch.received_at_us + FUTURE_US] = _FUTURE
    verdict[quantity > book.most_units[version, service]] = _TOO_LARGE
    verdict[unknown] = _UNKNOWN_CARD

    if known.any():
        same = known_content == content
        verdict[known & same] = _DUPLICATE
        verdict[known & ~same] = _CONFLICT
    order = order_of(low)
    _judge_repeats(verdict, known, high, low, content, order)

    fine = verdict == _FINE
    place = np.arange(count) if fine.all() else np.flatnonzero(fine)
    if len(place) < count:
        order = order[fine[order]]
    seen.add(high[order], low[order], content[order], today, ordered=True)
    everything = Accepted(
        np.arange(count), card, account, plan, version, day, used_us, service, direction, zone, spot, spots
    )
    return Acceptance(
        accepted=everything if len(place) == count else everything.take(place),
        rejects=_rejects(batch, book, everything, verdict),
        duplicates=int(np.count_nonzero(verdict == _DUPLICATE)),
    )


def _rated(
    book: Book, version: Ints, service: Ints, direction: Ints, zone: Ints, rows: pl.DataFrame
) -> npt.NDArray[np.bool_]:
    """Return whether the plan version of each record has a rate for it, bool[n].

    If the version has rates for up and down only, a record must give both volumes.
    """
    if not len(book.versions):
        return np.zeros(len(rows), bool)
    rated: npt.NDArray[np.bool_] = book.rated_at[version, service, direction, zone]
    if book.split_directions.any():
        at = np.flatnonzero(rated & ~book.rated_whole[version, service, direction, zone])
        if len(at):
            known = [rows[name].is_not_null().to_numpy() for name in _VOLUMES if name in rows.columns]
            rated[at] = len(known) == len(_VOLUMES) and np.logical_and(*known)[at]
    return rated


_VOLUMES: Final = ("volume_up_bytes", "volume_down_bytes")


def _judge_repeats(
    verdict: np.ndarray, known: np.ndarray, high: np.ndarray, low: np.ndarray, content: np.ndarray, order: Ints
) -> None:
    """Mark repeated keys within the batch, in `verdict`.

    Of several records with one key, the first that can be rated is accepted. Every later one becomes a duplicate, or
    a conflict if its content differs.
    """
    first = first_in_batch(high, low, order)
    places = np.arange(len(first))
    repeats = first != places
    if not repeats.any():
        return
    repeated = np.zeros(len(first), bool)
    repeated[first[repeats]] = True
    repeated[repeats] = True
    at = np.flatnonzero(repeated & ~known)
    stands = np.full(len(first), len(first), np.int64)
    good = at[verdict[at] == _FINE]
    np.minimum.at(stands, first[good], good)
    winner = stands[first[at]]
    later = at > winner
    at, winner = at[later], winner[later]
    verdict[at] = np.where(content[at] == content[winner], _DUPLICATE, _CONFLICT)


def _rejects(batch: UsageBatch, book: Book, records: Accepted, verdict: np.ndarray) -> pl.DataFrame:
    """Return the rejects of a batch (REJECT_SCHEMA). `records` and `verdict` have one element for each of its rows."""
    rows = batch.rows
    at = np.flatnonzero((verdict != _FINE) & (verdict != _DUPLICATE))
    if not len(at):
        return pl.DataFrame(schema=REJECT_SCHEMA)
    why = verdict[at].tolist()
    found = sorted(set(why))
    asked = {name for one in found for name in _SHOWN.get(one, ()) if name in rows.columns}
    bad = pl.DataFrame(
        [
            *(rows[name][at] for name in ("source_row", "record_key", *sorted(asked))),
            pl.Series("why", verdict[at]),
            pl.Series("reason", [_REASONS[one] for one in why], pl.String),
            pl.Series("wrong", [_FIELDS.get(one) for one in why], pl.String),
        ]
    )
    if _TOO_LARGE in found:
        bad = bad.with_columns(most=book.most_units[records.version[at], records.service[at]])
    if _NO_RATE in found:
        names = [f"{plan.id} version {version.version}" for plan, version in book.versions] or ["none"]
        codes = zip(records.service[at].tolist(), records.direction[at].tolist(), strict=True)
        bad = bad.with_columns(
            pl.Series("version", [names[number] for number in records.version[at].tolist()], pl.String),
            pl.Series("sort", [_SORTS[sort][way] for sort, way in codes], pl.String),
        )
    texts = [_message(one, asked, batch.received_at_us) for one in found]
    message = texts[0]
    if len(found) > 1:
        message = pl.coalesce(*(pl.when(why=one).then(text) for one, text in zip(found, texts, strict=True)))
    carried = [pl.when(pl.col(name).is_not_null()).then(pl.lit(name)) for name in NUMBERS if name in asked]
    labels = dict(batch.labels)
    field = pl.coalesce("wrong", *carried, pl.lit(NUMBERS[0])).replace(list(labels), list(labels.values()))
    return bad.select("source_row", "record_key", "reason", field=field, message=message)


def _message(why: int, names: set[str], received_at_us: int) -> pl.Expr:
    """Return the message of records rejected for one reason: what was found and what would be right.

    `names` are the columns that the message can use.
    """
    number = pl.coalesce(
        *(pl.format(name.upper() + " {}", name) for name in NUMBERS if name in names), pl.lit("no number")
    )
    time = pl.col("used_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    if why == _UNKNOWN_CARD:
        text = pl.format("found {}, which no card has; expected a card of the catalogue", number)
        if "msisdn" not in names:
            return text
        signed = pl.col("msisdn").str.starts_with("+").fill_null(False)
        return pl.when(signed).then(text + ", whose numbers are written without +").otherwise(text)
    if why == _TOO_LARGE:
        return pl.format("found {} units; expected at most {}", "quantity", "most")
    if why == _FUTURE:
        received = pl.from_epoch(pl.Series([received_at_us]), "us").dt.strftime("%Y-%m-%dT%H:%M:%SZ")[0]
        return pl.format("found {}; expected at most one hour after arrival at " + received, time)
    if why == _NO_PLAN:
        return pl.format("found {} without a plan in force on {}; expected one", number, time)
    if why == _NO_RATE:
        plmn, country = (
            pl.col(name).fill_null("none") if name in names else pl.lit("none") for name in ("plmn", "country")
        )
        place = pl.format("PLMN {}, country {}", plmn, country)
        return pl.format(
            "found {} in {}, which plan {} has no rate for; expected a rate or a default zone", "sort", place, "version"
        )
    return pl.lit("found other content under a key that was accepted before; expected the same, or a new key")


_SHOWN: Final[dict[int, tuple[str, ...]]] = {
    _UNKNOWN_CARD: NUMBERS,
    _TOO_LARGE: ("quantity",),
    _FUTURE: ("used_at",),
    _NO_PLAN: (*NUMBERS, "used_at"),
    _NO_RATE: ("plmn", "country"),
}
_SORTS: Final = [[f"{one.name}/{way.name}".lower() for way in Direction] for one in Service]
