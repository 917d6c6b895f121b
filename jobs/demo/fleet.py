"""A synthetic fleet: accounts, plans, pools and cards of three tenants. The same seed gives the same fleet.

Card numbers, number ranges and names are invented. The mix of plans, the sizes of pools and the skew of usage between
cards are realistic.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]

HOME, REGION, WORLD = 0, 1, 2
# PLMNs of eight countries. For each tenant, some are at home, some in the region and the rest abroad.
PLMNS = ("26201", "26203", "20801", "22210", "21407", "310260", "311480", "302720", "44010", "72405")
_DE, _EU, _US, _NORTH, _FAR = (0, 1), (2, 3, 4), (5, 6), (7,), (8, 9)


class Tenant(NamedTuple):
    """An account of the fleet. `reach` has three tuples of indices into PLMNS: home, region, world."""

    name: str
    title: str
    time_zone: str
    iccid_body: str  # The digits before the serial number.
    imsi_body: str
    reach: tuple[tuple[int, ...], ...]


class CardGroup(NamedTuple):
    """A share of the fleet: cards of one tenant, pooled or not. `plans` has plan names and their shares of the cards.

    If the fleet has no pool for a pooled group, its cards are on the plan `alone` instead.
    """

    tenant: str
    share: float
    plans: tuple[tuple[str, float], ...]
    pools: str = ""  # Kind of pool, or empty if the cards are not pooled.
    devices: bool = False  # If true, every two cards share a device.
    alone: str = "fleet-single"


class PlanFacts(NamedTuple):
    """Facts of a plan that the usage generator needs: monthly data in bytes, and whether the plan prices voice."""

    data_bytes: int
    voice: bool


MB = 1024 * 1024

TENANTS = (
    Tenant("alder", "Alder Meters", "UTC", "898839", "901401", (_DE, _EU, _US + _NORTH + _FAR)),
    Tenant("birch", "Birch Logistics", "Europe/Berlin", "898841", "901402", (_DE, _EU, _US + _NORTH + _FAR)),
    # ICCIDs of this tenant have 20 digits.
    Tenant("cumulus", "Cumulus Trackers", "America/New_York", "8986037", "901403", (_US, _NORTH, _DE + _EU + _FAR)),
)

PLANS = {
    "fleet-single": PlanFacts(500 * MB, True),
    "zoned-single": PlanFacts(300 * MB, True),
    "dynamic-100": PlanFacts(100 * MB, True),
    "dynamic-250": PlanFacts(250 * MB, True),
    "tier-30": PlanFacts(30 * MB, True),
    "static-member": PlanFacts(60 * MB, True),
    "eu-dynamic-150": PlanFacts(150 * MB, True),
    "tracker-device": PlanFacts(50 * MB, False),
}

GROUPS = (
    CardGroup("alder", 0.22, (("fleet-single", 1.0),)),
    CardGroup("alder", 0.20, (("dynamic-100", 0.7), ("dynamic-250", 0.3)), "dynamic"),
    CardGroup("alder", 0.10, (("static-member", 1.0),), "static"),
    CardGroup("birch", 0.14, (("zoned-single", 1.0),)),
    CardGroup("birch", 0.08, (("tier-30", 1.0),), "same_tier", alone="zoned-single"),
    CardGroup("birch", 0.10, (("eu-dynamic-150", 1.0),), "dynamic", alone="zoned-single"),
    CardGroup("cumulus", 0.06, (("fleet-single", 1.0),)),
    CardGroup("cumulus", 0.06, (("tracker-device", 1.0),), devices=True),
    CardGroup("cumulus", 0.04, (("static-member", 1.0),), "static"),
)

_FIXED = Path(__file__).with_name("fleet.toml")  # The plans and zones.
_STATIC_BYTES_A_MEMBER = PLANS["static-member"].data_bytes


class MadePool(NamedTuple):
    """A pool of the fleet, with its number of cards."""

    name: str
    tenant: str
    kind: str
    members: int


@dataclass(frozen=True)
class Fleet:
    """The generated cards and the parameters of their usage, one row a card.

    `cards` has the columns of CARD_SCHEMA that have values. The arrays are parallel to its rows: `tenant` is an index
    into TENANTS, `data_bytes` the plan's data in a month, `voice` true if the plan prices voice, `active_day` the first
    day of use (days since 1970), and `pool` an index into `pools`, or -1. The last card has no plan yet.
    """

    cards: pl.DataFrame
    pools: tuple[MadePool, ...]
    tenant: Ints
    data_bytes: Ints
    voice: npt.NDArray[np.bool_]
    active_day: Ints
    pool: Ints


def make_fleet(cards: int, pools: int, month: dt.date, rng: np.random.Generator) -> Fleet:
    """Return a fleet of `cards` cards (at least 10) and `pools` pools, as of the month that begins on `month`."""
    counts = _portions(cards, [group.share for group in GROUPS])
    pool_counts = _portions(pools, [group.share if group.pools else 0.0 for group in GROUPS])
    tenants = {tenant.name: index for index, tenant in enumerate(TENANTS)}
    plan_names = list(PLANS)
    tenant = np.repeat([tenants[group.tenant] for group in GROUPS], counts)
    plan = np.empty(cards, dtype=np.int64)
    pool = np.full(cards, -1, dtype=np.int64)
    device = np.full(cards, -1, dtype=np.int64)
    made: list[MadePool] = []
    start = 0
    for group, count, pool_count in zip(GROUPS, counts, pool_counts, strict=True):
        rows = slice(start, start + count)
        plans = group.plans if pool_count or not group.pools else ((group.alone, 1.0),)
        names, shares = zip(*plans, strict=True)
        plan[rows] = np.repeat([plan_names.index(name) for name in names], _portions(count, shares))
        rng.shuffle(plan[rows])
        if pool_count:
            member = np.sort(rng.choice(pool_count, size=count, p=rng.dirichlet(np.full(pool_count, 1.5))))
            pool[rows] = len(made) + member
            members = np.bincount(member, minlength=pool_count)
            kind = group.pools.replace("_", "-")
            for number, size in enumerate(members, start=1):
                made.append(MadePool(f"{group.tenant}-{kind}-{number:03d}", group.tenant, group.pools, int(size)))
        if group.devices:
            device[rows] = np.arange(count) // 2
        start += count
    active_day = _active_days(cards, month, rng)
    facts = np.array([PLANS[name].data_bytes for name in plan_names])
    return Fleet(
        cards=_card_frame(tenant, plan, pool, device, active_day, made, rng),
        pools=tuple(made),
        tenant=tenant,
        data_bytes=facts[plan],
        voice=np.array([PLANS[name].voice for name in plan_names])[plan],
        active_day=active_day,
        pool=pool,
    )


def _portions(total: int, shares: list[float] | tuple[float, ...]) -> list[int]:
    """Split `total` in proportion to `shares` into integers that add up to `total`. A share of 0 gives 0."""
    edges = np.rint(np.cumsum([0.0, *shares]) / sum(shares) * total).astype(np.int64)
    return [int(size) for size in np.diff(edges)]


def _active_days(cards: int, month: dt.date, rng: np.random.Generator) -> Ints:
    """Draw the activation day of each card, in days since 1970.

    One card in fifty is activated during the month, the others up to two and a half years before it.
    """
    first = (month - dt.date(1970, 1, 1)).days
    days = first - rng.integers(1, 900, size=cards)
    fresh = rng.random(cards) < 0.02
    return np.where(fresh, first + rng.integers(1, 26, size=cards), days)


def _card_frame(
    tenant: Ints,
    plan: Ints,
    pool: Ints,
    device: Ints,
    active_day: Ints,
    pools: list[MadePool],
    rng: np.random.Generator,
) -> pl.DataFrame:
    serial = np.arange(len(tenant)) + 1
    plans = pl.Series(list(PLANS))
    pool_names = pl.Series([made.name for made in pools], dtype=pl.String)
    status = np.where(rng.random(len(tenant)) < 0.01, "suspended", "activated")
    frame = pl.DataFrame({"row": serial - 1, "tenant": tenant, "serial": serial, "device_number": device})
    text = pl.col("serial").cast(pl.String).str.zfill(12)
    frame = frame.with_columns(
        account=pl.Series([made.name for made in TENANTS]).gather(tenant),
        body=pl.Series([made.iccid_body for made in TENANTS]).gather(tenant) + frame.select(text).to_series(),
        imsi=pl.Series([made.imsi_body for made in TENANTS]).gather(tenant)
        + frame.select(pl.col("serial").cast(pl.String).str.zfill(9)).to_series(),
        msisdn=pl.lit("88351") + pl.col("serial").cast(pl.String).str.zfill(8),
        plan=plans.gather(plan),
        pool=pool_names.gather(pl.Series(pool).replace(-1, None)),
        device=pl.when(pl.col("device_number") >= 0).then(
            pl.lit("tracker-") + pl.col("device_number").cast(pl.String).str.zfill(6)
        ),
        status=pl.Series(status),
        activated_on=pl.Series(active_day).cast(pl.Int32).cast(pl.Date),
    )
    # The last card is in stock: it has no plan and no pool, and is not activated.
    stock = pl.col("row") == len(tenant) - 1
    idle = [pl.when(~stock).then(pl.col(name)).alias(name) for name in ("plan", "pool", "device", "activated_on")]
    return frame.with_columns(
        *idle,
        iccid=pl.Series(_with_check_digit(frame["body"])),
        status=pl.when(stock).then(pl.lit("inventory")).otherwise("status"),
    ).select("iccid", "imsi", "msisdn", "account", "plan", "pool", "device", "status", "activated_on")


def _with_check_digit(bodies: pl.Series) -> pl.Series:
    """Append the Luhn check digit to each text of 18 or 19 digits."""
    matrix = (
        np.frombuffer(bodies.str.zfill(19).str.join("").item().encode("ascii"), dtype=np.uint8).reshape(-1, 19) - 48
    )
    doubled = matrix[:, 0::2].astype(np.int64) * 2  # Every second digit, counted back from the last one, is doubled.
    total = (doubled - np.where(doubled > 9, 9, 0)).sum(axis=1) + matrix[:, 1::2].sum(axis=1, dtype=np.int64)
    return bodies + pl.Series(-total % 10).cast(pl.String)


def catalogue_text(fleet: Fleet) -> str:
    """Return the catalogue of the fleet without its cards as TOML: accounts, zones, plans and pools."""
    parts = [_FIXED.read_text(encoding="utf-8").strip()]
    parts += [
        f'[[accounts]]\nid = "{tenant.name}"\nname = "{tenant.title}"\ntime_zone = "{tenant.time_zone}"'
        for tenant in TENANTS
    ]
    parts += [_pool_text(pool) for pool in fleet.pools]
    return "\n\n".join(parts) + "\n"


def _pool_text(pool: MadePool) -> str:
    text = f'[[pools]]\nid = "{pool.name}"\naccount = "{pool.tenant}"\nkind = "{pool.kind}"'
    if pool.kind == "static":
        size = max(1, pool.members) * _STATIC_BYTES_A_MEMBER // MB
        text += (
            f'\ncurrency = "USD"\nsize = [{{ service = "data", amount = "{size} MB" }}]'
            '\nfees = [{ name = "pool", amount = "0.90", per = "cycle" }]'
            '\n\n[[pools.overage]]\nservice = "data"'
            '\nprice = { model = "package", price = "4.50", per = "1 GB" }'
        )
    if pool.kind == "dynamic":
        text += '\njoining = "prorate"'
    return text
