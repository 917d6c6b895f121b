"""One month of synthetic usage as columns, in order of arrival."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from jobs.demo.fleet import TENANTS, Fleet, Ints

SERVICES = ("data", "sms", "voice")
DIRECTIONS = ("both", "mo", "mt")


@dataclass(frozen=True)
class FleetUsage:
    """Usage records without duplicates, as parallel arrays in order of arrival.

    `card` is the row of the card in the fleet. `service`, `direction` and `plmn` are indices into SERVICES, DIRECTIONS
    and PLMNS.
    """

    card: Ints
    service: npt.NDArray[np.int8]
    direction: npt.NDArray[np.int8]
    up_bytes: Ints
    down_bytes: Ints
    quantity: Ints  # Messages or seconds.
    at: Ints  # Time of use, in seconds since 1970.
    plmn: npt.NDArray[np.int8]


def make_usage(fleet: Fleet, count: int, month: dt.date, rng: np.random.Generator) -> FleetUsage:
    """Return `count` records of cards that have a plan, all within `month` in UTC and in the account's time zone."""
    usable = len(fleet.data_bytes) - 1  # The last card has no plan.
    # The share of its plan that a card uses and its number of records are heavy-tailed and independent of each other.
    pool_use = np.append(rng.lognormal(0.0, 0.25, size=len(fleet.pools)), 1.0)  # Index -1 means no pool.
    use_bytes = fleet.data_bytes * rng.lognormal(-0.65, 0.9, size=usable + 1) * pool_use[fleet.pool]
    activity = rng.lognormal(0.0, 0.8, size=usable)
    card = np.searchsorted(np.cumsum(activity / activity.sum()), rng.random(count)).clip(0, usable - 1)
    arrival = _arrivals(count, month, rng)
    at = arrival - np.minimum(rng.exponential(600.0, size=count), 2 * 86_400).astype(np.int64)
    windows = _windows(month)
    at = _reflected(at, fleet.tenant[card], windows)
    # Usage before a card's activation moves to a card that was active before the month.
    settled = np.flatnonzero(fleet.active_day[:usable] < (month - dt.date(1970, 1, 1)).days)
    early = np.flatnonzero(at // 86_400 <= fleet.active_day[card])
    card[early] = settled[rng.integers(0, len(settled), size=len(early))]
    at[early] = _reflected(at[early], fleet.tenant[card[early]], windows)

    service = np.searchsorted([0.94, 0.99], rng.random(count), side="right").astype(np.int8)
    service[(service == 2) & ~fleet.voice[card]] = 0
    direction = np.where(service == 0, 0, 1 + (rng.random(count) < 0.3)).astype(np.int8)
    records = np.maximum(count * activity / activity.sum(), 1.0)
    volume = np.maximum(use_bytes[card] / records[card] * rng.standard_exponential(count), 40.0).astype(np.int64)
    up_bytes = (volume * (0.08 + 0.25 * rng.random(count))).astype(np.int64)
    spoken = 1 + rng.exponential(75.0, size=count).astype(np.int64)
    return FleetUsage(
        card=card,
        service=service,
        direction=direction,
        up_bytes=up_bytes,
        down_bytes=volume - up_bytes,
        quantity=np.where(service == 2, spoken, 1 + (rng.random(count) < 0.1)),
        at=at,
        plmn=_networks(fleet.tenant[card], rng),
    )


def _arrivals(count: int, month: dt.date, rng: np.random.Generator) -> Ints:
    """Draw sorted arrival times in seconds since 1970: more by day than by night, fewer on Saturday and Sunday."""
    start, end = month_bounds(month)
    hours = np.arange((end - start) // 3600)
    by_hour = 1.0 + 0.6 * np.sin((hours % 24 - 8) / 24 * 2 * np.pi)
    weekend = (month.weekday() + hours // 24) % 7 >= 5
    share = np.cumsum(np.concatenate([[0.0], by_hour * np.where(weekend, 0.8, 1.0)]))
    drawn = np.sort(rng.random(count))
    return start + np.interp(drawn, share / share[-1], np.arange(len(share)) * 3600).astype(np.int64)


def month_bounds(month: dt.date) -> tuple[int, int]:
    """Return the start of the month and of the next month in UTC, as seconds since 1970."""
    start = dt.datetime(month.year, month.month, 1, tzinfo=dt.UTC)
    end = dt.datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=dt.UTC)
    return int(start.timestamp()), int(end.timestamp())


def _windows(month: dt.date) -> tuple[Ints, Ints]:
    """Return two arrays: each tenant's first and last second that is in the month in UTC and in its time zone."""
    start, end = month_bounds(month)
    firsts, lasts = [], []
    for tenant in TENANTS:
        zone = ZoneInfo(tenant.time_zone)
        edges = [dt.datetime.fromtimestamp(edge, dt.UTC).replace(tzinfo=zone).timestamp() for edge in (start, end)]
        firsts.append(max(start, int(edges[0])))
        lasts.append(min(end, int(edges[1])) - 1)
    return np.array(firsts), np.array(lasts)


def _reflected(at: Ints, tenant: Ints, windows: tuple[Ints, Ints]) -> Ints:
    """Return `at` with each time outside the tenant's window reflected at the window's edge, as far inside of it."""
    first, last = windows[0][tenant], windows[1][tenant]
    inside: Ints = last - np.abs(last - first - np.abs(at - first))
    return inside


def _networks(tenant: Ints, rng: np.random.Generator) -> npt.NDArray[np.int8]:
    """Draw a network for each record, as an index into PLMNS: most at home, some in the region, few in the world."""
    ring = np.searchsorted([0.86, 0.97], rng.random(len(tenant)), side="right")
    drawn = rng.random(len(tenant))
    network = np.empty(len(tenant), dtype=np.int8)
    for index, made in enumerate(TENANTS):
        for number, reach in enumerate(made.reach):
            rows = np.flatnonzero((tenant == index) & (ring == number))
            network[rows] = np.array(reach, dtype=np.int8)[(drawn[rows] * len(reach)).astype(np.int64)]
    return network


def with_repeats(count: int, repeats: int, rng: np.random.Generator) -> Ints:
    """Return row numbers of usage in the order of the file: each of `count` rows, and `repeats` rows again.

    Half of the repeated rows follow soon after the first occurrence, the others anywhere later.
    """
    repeated = rng.integers(0, count, size=repeats)
    near = 1.0 + rng.exponential(200.0, size=repeats)
    far = 1.0 + rng.random(repeats) * count
    position = repeated + np.where(rng.random(repeats) < 0.5, near, far) + 0.5
    order = np.argsort(np.concatenate([np.arange(count, dtype=np.float64), position]), kind="stable")
    return np.concatenate([np.arange(count), repeated])[order]
