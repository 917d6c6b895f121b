"""Validation of cards, a whole column at a time: numbers, references, duplicates, pools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
import polars as pl

from pipeline.catalogue.cards import CardSet
from pipeline.catalogue.findings import SHOWN, Findings, choice
from pipeline.catalogue.merge import Known
from rating.catalogue.cards import merged
from rating.catalogue.check_digits import eid_valid_column, luhn_valid_column
from schemas.cards import CARD_SCHEMA, Pool
from schemas.choices import CARD_STATUSES
from schemas.plans import Cycle
from schemas.rules import Reason

REASONS: tuple[str, ...] = get_args(Reason)

_FORMS = {
    "iccid": (r"^[0-9]{2}[0-9A-E]{16,20}$", "18 to 22 digits, or letters A to E behind the first two"),
    "imsi": (r"^[0-9]{14,15}$", "14 or 15 digits"),
    "msisdn": (r"^[0-9]{5,15}$", "5 to 15 digits with the country code, without +"),
    "eid": (r"^[0-9]{32}$", "32 digits"),
    "imei": (r"^[0-9]{14,16}$", "14 to 16 digits"),
}


def check_cards(
    cards: CardSet, in_force: pl.DataFrame, known: Known, findings: Findings, *, check_digits: bool = True
) -> None:
    """Add findings about the cards of the set. `in_force` are the cards of the catalogue in force (CARD_SCHEMA)."""
    frame = cards.frame()
    for name, (pattern, expected) in _FORMS.items():
        cards.report(frame.filter(~pl.col(name).str.contains(pattern)), name, _form(expected), findings)
    for name in ("iccid", "account"):
        cards.report(frame.filter(pl.col(name).is_null()), name, "a value in every row", findings)
    if check_digits:
        _check_digits(cards, frame, findings)
    whole = in_full(frame, in_force)
    _check_values(cards, frame, whole, findings)
    _check_dates(cards, frame, whole, findings)
    for column, legal, noun in (
        ("account", known.accounts, "an account: one of"),
        ("plan", known.plans, "a plan: one of"),
        ("pool", known.pools, "a pool: one of"),
    ):
        _check_names(cards, frame, column, legal, noun, findings)
    staying = in_force.join(frame.select("iccid"), on="iccid", how="anti")
    _check_duplicates(cards, frame, staying, findings)
    _check_pools(cards, whole, staying, known, findings)


def in_full(frame: pl.DataFrame, in_force: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with the values that a card in force keeps, because its row does not give them.

    The columns are those of `frame`, in its order.
    """
    known = in_force.join(frame.select("iccid"), on="iccid", how="semi")
    if known.is_empty():
        return frame
    found = frame.select("iccid").with_row_index("at").join(known, on="iccid", maintain_order="left")
    at = found["at"].to_numpy()
    now = merged(found.select(*CARD_SCHEMA), frame[at])
    others = [name for name in frame.columns if name not in CARD_SCHEMA]
    now = pl.concat([now, frame[at].select(others)], how="horizontal").select(frame.columns)
    places = np.concatenate([np.setdiff1d(np.arange(len(frame)), at), at])
    return pl.concat([frame[places[: len(frame) - len(at)]], now])[np.argsort(places)]


def _form(expected: str) -> Callable[[str], str]:
    def words(value: str) -> str:
        if "E+" in value.upper():
            return f"{expected}: a spreadsheet rounded it, so format the column as text before you enter the numbers"
        if value.upper().rstrip("F").isdigit() and value[-1] in "fF":
            return f"{expected}, without the filler F"
        return expected

    return words


def _check_digits(cards: CardSet, frame: pl.DataFrame, findings: Findings) -> None:
    iccid, eid = frame["iccid"], frame["eid"]
    is_long = iccid.str.contains(r"^[0-9]{19}$")
    # These checks take most of the time for a large list, so an all-null EID column is not checked.
    bad = frame.filter((is_long & ~luhn_valid_column(iccid)).fill_null(False))
    cards.report(bad, "iccid", "a last digit that fits the others (Luhn): a digit is wrong", findings)
    if eid.null_count() < len(eid):
        bad = frame.filter((eid.str.contains(r"^[0-9]{32}$") & ~eid_valid_column(eid)).fill_null(False))
        cards.report(bad, "eid", "two last digits that fit the others (modulo 97): a digit is wrong", findings)


def _check_dates(cards: CardSet, frame: pl.DataFrame, whole: pl.DataFrame, findings: Findings) -> None:
    """Add findings about days of a plan or pool that the row does not name."""
    bad = frame.filter(pl.col("plan").is_null() & pl.col("plan_from").is_not_null())
    cards.report(bad, "plan_from", "the plan that begins on this day, in the same row", findings)
    bad = frame.filter(pl.col("pool").is_null() & pl.col("pool_from").is_not_null())
    cards.report(bad, "pool_from", "the pool that the card joins on this day, in the same row", findings)
    joined = pl.col("given").str.split(",").list.contains("pool")
    bad = whole.filter(pl.col("pool_until").is_not_null() & pl.col("pool").is_null() & ~joined)
    cards.report(bad, "pool_until", "a day for a card that is in a pool, or a pool in the same row", findings)
    bad = frame.filter(pl.col("pool_until").is_not_null() & pl.col("pool").is_null() & joined)
    cards.report(
        bad, "pool_until", "a pool in the same row, or no column pool, to end the present membership", findings
    )


def _check_values(cards: CardSet, frame: pl.DataFrame, whole: pl.DataFrame, findings: Findings) -> None:
    bad = frame.filter(~pl.col("status").is_in(CARD_STATUSES))
    cards.report(bad, "status", lambda value: choice(value, CARD_STATUSES), findings)
    bad = frame.filter(~pl.col("status_reason").is_in(REASONS))
    cards.report(bad, "status_reason", lambda value: choice(value, REASONS), findings)
    reason = pl.col("status_reason").is_in(REASONS) & pl.col("given").str.split(",").list.contains("status_reason")
    bad = whole.filter(reason & pl.col("status").ne_missing("suspended"))
    cards.report(bad, "status_reason", "a reason with the status suspended only", findings)
    cards.report(frame.filter(pl.col("term_months") < 1), "term_months", "1 or more, or nothing", findings)
    bad = frame.filter(pl.col("pool_until") < pl.col("pool_from"))
    cards.report(bad, "pool_until", "a day that is not before pool_from", findings)


def _check_names(
    cards: CardSet, frame: pl.DataFrame, column: str, legal: Iterable[str], noun: str, findings: Findings
) -> None:
    unknown = set(frame[column].drop_nulls().unique()) - set(legal)
    if unknown:
        hinted: dict[str, str] = {}

        def words(name: str) -> str:
            if name not in hinted and len(hinted) < SHOWN:  # the search for similar names is slow
                hinted[name] = choice(name, legal, noun)
            return hinted.get(name, noun.removesuffix(": one of"))

        cards.report(frame.filter(pl.col(column).is_in(list(unknown))), column, words, findings)


def _check_duplicates(cards: CardSet, frame: pl.DataFrame, staying: pl.DataFrame, findings: Findings) -> None:
    """Add findings about ICCIDs, IMSIs and MSISDNs that several cards have.

    An ICCID that is in force already is no finding: it is a change of that card.
    """
    for column in ("iccid", "imsi", "msisdn"):
        twice = frame.filter(pl.col(column).is_not_null() & pl.col(column).is_duplicated())
        firsts: dict[str, str] = {}
        for source, row, value in twice.select("source", "row", column).iter_rows():
            if value in firsts:
                continue
            origin = cards.sources[source]
            firsts[value] = f"{origin.file}:{origin.line(row)}"
        again = twice.filter(~pl.col(column).is_first_distinct())
        cards.report(again, column, _words("each once: it is at {}", firsts), findings)
        if column != "iccid" and staying.height:
            owners = dict(staying.join(frame, on=column, how="semi").select(column, "iccid").iter_rows())
            taken = frame.filter(pl.col(column).is_in(list(owners)))
            cards.report(taken, column, _words("each once: card {} in force has it", owners), findings)


def _words(form: str, names: dict[str, str]) -> Callable[[str], str]:
    return lambda value: form.format(names[value])


@dataclass(frozen=True)
class _Member:
    """The properties of a plan that matter for membership in a pool."""

    type: str
    tier: str
    currency: str
    cycle: Cycle


def _check_pools(cards: CardSet, frame: pl.DataFrame, staying: pl.DataFrame, known: Known, findings: Findings) -> None:
    """Add findings about pool members: account, plans that pool, one tier in a same_tier pool, currency and cycle."""
    told = pl.col("given").str.split(",")
    members = frame.filter(pl.col("pool").is_not_null() & (told.list.contains("pool") | told.list.contains("plan")))
    pools = {name: pool for name, pool in known.pools.items() if pool is not None}
    accounts = {name: pool.account for name, pool in pools.items()}
    owner = pl.col("pool").replace_strict(accounts, default=None, return_dtype=pl.String)
    # A card that moves to another account leaves its pool by itself, unless the row puts it into one.
    members = members.filter((owner == pl.col("account")).fill_null(True) | told.list.contains("pool"))
    bad = members.filter(owner != pl.col("account"))
    stray = bad.with_columns(found=pl.format("{} of another account than {}", "pool", "account"))
    cards.report(stray, "pool", lambda value: f"a pool of the card's account: {_pools_of(accounts, value)}", findings)
    cards.report(members.filter(pl.col("plan").is_null()), "plan", "a plan that pools, for a card in a pool", findings)

    # From here on, check pairs of pool and plan. They are few, however many cards there are.
    plans = {
        name: _Member(plan.type, plan.tier or plan.id, plan.currency, plan.cycle)
        for name, plan in known.plans.items()
        if plan is not None
    }
    standing = staying.filter(pl.col("pool").is_not_null()).select("pool", "plan")
    norms: dict[str, _Member] = {}
    for pair in (standing, members.select("pool", "plan")):
        for pool_id, plan_id in pair.unique(maintain_order=True).iter_rows():
            if plan_id in plans and plans[plan_id].type != "single":
                norms.setdefault(pool_id, plans[plan_id])
    misfits: dict[str, list[str]] = {"pool": [], "plan": [], "expected": []}
    for pool_id, plan_id in members.select("pool", "plan").unique(maintain_order=True).iter_rows():
        pool, plan = pools.get(pool_id), plans.get(plan_id)
        if pool is None or plan is None:
            continue
        for expected in _misfits(pool, plan, norms.get(pool_id, plan)):
            misfits["pool"].append(pool_id)
            misfits["plan"].append(plan_id)
            misfits["expected"].append(expected)
    if misfits["pool"]:
        bad = members.join(pl.DataFrame(misfits), on=["pool", "plan"], maintain_order="left_right")
        cards.report(bad, "plan", None, findings)


def _misfits(pool: Pool, plan: _Member, norm: _Member) -> Iterator[str]:
    """Yield what the pool needs instead of this plan. `norm` is the plan of its first member that pools."""
    if plan.type == "single":
        yield f"a plan that pools (same_tier, dynamic, static) in pool {pool.id}"
        return
    if pool.kind == "same_tier" and plan.tier != norm.tier:
        yield f"the one tier of pool {pool.id}: {norm.tier}, not {plan.tier}"
    currency = pool.currency or norm.currency
    if plan.currency != currency:
        yield f"a plan in the currency of pool {pool.id}, {currency}"
    if plan.cycle != pool.cycle:
        yield f"a plan with the cycle of pool {pool.id}, {pool.cycle.months} months from day {pool.cycle.anchor_day}"


def _pools_of(accounts: dict[str, str], found: str) -> str:
    account = found.rpartition(" of another account than ")[2]
    return ", ".join(sorted(name for name, owner in accounts.items() if owner == account)[:12]) or "there is none"
