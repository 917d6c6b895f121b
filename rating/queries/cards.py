"""Cards of the state with their plan, pool, add-ons and shares of pools: of some cards, or of all (Q2)."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import polars as pl

from rating.catalogue.facts import FACTS, texts
from rating.catalogue.rates import SERVICES
from rating.catalogue.spells import END, texts_on
from rating.columnar.key_index import Ints
from rating.columnar.named import named
from rating.queries.counters import open_cycles, rows_of_subject
from rating.queries.pools import PoolUse, uses_now
from rating.queries.queried import Queried
from rating.queries.schemas import ADDONS_VIEW, CARDS_VIEW
from rating.rules.holds import OUTSIDE, REASONS, UNTILS
from rating.units.money import parse_amount
from rating.usage.cycles import cycle_label


@dataclass(frozen=True)
class AllowanceShare:
    """How much of a pool or device (by its row) is used, and how much of that a card used."""

    pool: int
    use: PoolUse
    used_by_card: int


def cards_view(engine: Queried, card: Ints, day: Ints) -> pl.DataFrame:
    """Return these rows of the cards with the columns of CARDS_VIEW, each as of its local day (days since 1970)."""
    directory, book, service = engine.compiled.directory, engine.compiled.book, engine.compiled.pools.service
    plan = directory.plans.at(card, day)
    version = book.version_of(plan, day)
    numbers = np.array([version.version for _, version in book.versions] or [0], np.int32)
    pool = directory.pools.at(card, day)
    ends = service.term_ends(card, plan, day, directory.activations.at(card, day))
    rows = directory.cards[card]
    facts = {name: texts_on(directory.history(name), texts(rows, name), card, day) for name in FACTS}
    status, reason = (facts["status"].str.split("/").list.get(place, null_on_oob=True) for place in (0, 1))
    frame = rows.select(
        "iccid",
        imsi=facts["imsi"],
        msisdn=facts["msisdn"],
        account_id=facts["account"],
        plan_id=named(plan, book.vocabulary.plans.names),
        plan_version=pl.when(pl.Series(version >= 0)).then(pl.Series(numbers[version])),
        pool_id=named(pool, book.vocabulary.pools.names),
        device_id=facts["device"],
        carrier="carrier",
        status=status,
        tags="tags",
        activated_on=facts["activated_on"].str.to_date("%Y-%m-%d"),
        term_ends_on=pl.when(pl.Series(ends < END)).then(pl.Series(np.minimum(ends, 1 << 20))).cast(pl.Date),
        custom="custom",
        status_reason=pl.when(reason != "").then(reason),
        holds=_holds(engine, card),
    )
    return frame.select(pl.col(name).cast(kind) for name, kind in CARDS_VIEW.items())


def _holds(engine: Queried, card: Ints) -> pl.Series:
    """List(String)[n]: what holds each card, such as `hard_cut by limit.hard_cut.a until recovered`; null: nothing."""
    shown = engine.state.rules.holds.shown(card)
    rules = engine.state.vocabulary.rules.names
    texts: dict[int, list[str]] = {}
    for one, cause, reason, until, told in zip(
        *(column.tolist() for column in (shown.card, shown.cause, shown.reason, shown.until, shown.told)), strict=True
    ):
        who = "somebody" if cause == OUTSIDE else rules[cause]
        state = "" if told else ", not confirmed"
        texts.setdefault(one, []).append(f"{REASONS[reason]} by {who} until {UNTILS[until]}{state}")
    return pl.Series(
        [texts.get(one) for one in card.tolist()] if texts else [None] * len(card), dtype=pl.List(pl.String)
    )


def addons_view(engine: Queried, rows: Ints | None = None) -> pl.DataFrame:
    """Return add-ons with the columns of ADDONS_VIEW: these rows of them, or all."""
    addons, book = engine.compiled.addons, engine.compiled.book
    found = [
        (
            addon.id,
            addon.iccid,
            addon.service,
            int(addons.units[row]),
            int(addons.used[row]),
            addon.purchased_at.astimezone(dt.UTC),
            addon.expires_on,
            parse_amount(addon.price),
            book.versions[addons.version[row]][0].currency if addons.version[row] >= 0 else None,
        )
        for row in (range(len(addons.addons)) if rows is None else rows.tolist())
        for addon in (addons.addons[row],)
    ]
    return pl.DataFrame(found, schema=ADDONS_VIEW, orient="row")


def shares_now(engine: Queried, card: int, day: int) -> list[AllowanceShare]:
    """Return the shares of a card (by its row) on a local day: for each service of a pool or device, in open cycles."""
    book, compiled, counters = engine.compiled.book, engine.compiled, engine.state.counters
    cards, today = np.array([card]), np.array([day])
    plan = compiled.directory.plans.at(cards, today)
    found = []
    for name, service in SERVICES.items():
        pool = int(compiled.pools.of(cards, plan, np.array([int(service)]), today)[0]) if plan[0] >= 0 else -1
        if pool < 0:
            continue
        rows = rows_of_subject(engine, card << 1, open_cycles(engine, day, int(book.pool_cycle[pool])))
        rows = rows[book.meter_service[counters.meter[rows]] == service]
        labels = [cycle_label(book, code) for code in counters.cycle[rows].tolist()]
        for use in uses_now(engine, pool, day):
            if use.service == name:
                own = [row for row, label in zip(rows.tolist(), labels, strict=True) if label == use.cycle]
                found.append(AllowanceShare(pool, use, int(counters["in_pool"][own].sum())))
    return found
