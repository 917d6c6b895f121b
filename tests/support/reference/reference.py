"""Reference model of the fold: one record at a time in plain Python, slow, obvious, and without arrays.

It is written from docs/domain.md and the docstrings of schemas/plans.py. It has dicts and Fractions where the engine
has columns. It shares with the engine only the parsing of quantities, the rounding of money, the class PriceSpec, and
the time zone database.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from rating.tariff import PriceSpec
from rating.units.money import round_nanos
from rating.units.quantity import parse_quantity
from schemas.cards import Account, Addon, Catalogue, Pool
from schemas.plans import Cycle, Plan, PlanVersion, Rate, ZoneSet
from schemas.usage import Direction, RecordType, Service, UsageBatch
from tests.support.reference.price_reference import reference_cost
from tests.support.reference.reference_facts import Facts
from tests.support.reference.reference_terms import (
    FOR_EVER,
    Day,
    Outcome,
    Row,
    Session,
    add_months,
    allowance_of,
    band_at,
    billable,
    cycle_days,
    cycle_kind,
    cycle_name,
    find_rate,
    fixed_size,
    growth,
    held,
    meter,
    pool_rate,
    prorates,
)  # fmt: skip

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MOST = {"data": 1 << 45, "sms": 1 << 20, "voice": 1 << 25}
_CONTENT = (
    "iccid", "imsi", "msisdn", "session_id", "corrects_key", "plmn", "volume_up_bytes", "volume_down_bytes",
    "quantity", "used_at", "sequence", "service", "direction", "country", "zone", "started_at", "ended_at",
)  # fmt: skip


class Model(Facts):
    """The reference model of the engine's state and fold."""

    def __init__(self) -> None:
        super().__init__()
        self.latest = _EPOCH
        self.accounts: dict[str, Account] = {}
        self.zones: dict[str, ZoneSet] = {}
        self.plans: dict[str, Plan] = {}
        self.pools: dict[str, Pool] = {}
        self.addons: dict[str, Addon] = {}
        self.seen: dict[tuple[str, str], tuple[Any, int]] = {}
        self.today = 0
        self.sessions: dict[tuple[str, str, str], Session] = defaultdict(Session)
        # Totals by (kind of subject, subject, meter, cycle).
        self.counters: dict[tuple[str, str, str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.test_used: dict[str, int] = defaultdict(int)
        self.addon_used: dict[str, int] = defaultdict(int)
        self.offset = 0

    # The catalogue

    def apply(self, change: Catalogue, at: dt.datetime | None = None) -> None:
        """Apply a catalogue that arrived at a time (None: the latest so far): upsert by id."""
        self.accounts |= {account.id: account for account in change.accounts}
        self.zones |= {zones.id: zones for zones in change.zones}
        self.plans |= {plan.id: plan for plan in change.plans}
        self.pools |= {pool.id: pool for pool in change.pools}
        self.addons |= {addon.id: addon for addon in change.addons}
        self.take_cards(change, self.latest if at is None else at)
        self.offset += 1

    # A batch

    def usage(self, batch: UsageBatch) -> Outcome:
        """Fold a batch, one record after the other."""
        outcome = Outcome()
        received = _EPOCH + dt.timedelta(microseconds=batch.received_at_us)
        self.latest = max(self.latest, received)
        arrival = (received - _EPOCH).days
        self.today = max(self.today, arrival)
        for row in batch.rows.iter_rows(named=True):
            record = {name: row.get(name) for name in _CONTENT} | {
                "zone": row.get("zone"),
                "country": row.get("country"),
                "started_at": row.get("started_at"),
                "ended_at": row.get("ended_at"),
                "record_type": row.get("record_type"),
            }
            key = (batch.feed, row["record_key"])
            content = (tuple(record[name] for name in _CONTENT), row.get("record_type") or RecordType.EVENT)
            offset, self.offset = self.offset, self.offset + 1
            if key in self.seen and self.today - self.seen[key][1] <= 32:
                if self.seen[key][0] == content:
                    outcome.duplicates += 1
                else:
                    outcome.rejects.append((row["source_row"], "conflict"))
                continue
            reason = self.refusal(record, received)
            if reason is not None:
                outcome.rejects.append((row["source_row"], reason))
                continue
            self.seen[key] = (content, self.today)
            for rated in self.rate(record, row["record_key"], batch, received, outcome):
                outcome.rated.append(rated | {"source_row": row["source_row"], "journal_offset": offset})
        return outcome

    def card_of(self, record: Row) -> Row | None:
        """Return the card of a record by ICCID, else IMSI, else MSISDN (F1), or None: as of the time of use."""
        for name in ("iccid", "imsi", "msisdn"):
            number = record[name]
            if number is not None:
                known = number if name == "iccid" else self.who_had(name, number, record["used_at"])
                return self.card_at(known, record["used_at"]) if known in self.cards else None
        return None

    def refusal(self, record: Row, received: dt.datetime) -> str | None:
        """Return the reason why a record must be rejected, or None if it can be rated."""
        card = self.card_of(record)
        service = Service(record["service"]).name.lower()
        if card is None:
            return "unknown_card"
        if record["quantity"] > _MOST[service]:
            return "bad_value"
        if record["used_at"] > received + dt.timedelta(hours=1):
            return "future"
        day = self.local(card["account"], record["used_at"]).date()
        plan = held(self.card_plans[card["iccid"]], day)
        version = self.version_on(plan, day)
        if version is None or (self.plans[plan or ""].after_term == "reject" and not self.in_term(card["iccid"], day)):
            return "no_plan"
        zone = self.zone_of(version, record)
        ways = [way for way, _, _ in self.directions(version, record)]
        bands = [None, *(band.name for band in version.bands)]
        for way in ways:
            if not any(find_rate(version, service, way, zone, band) for band in bands):
                return "no_rate"
        return None

    def zone_of(self, version: PlanVersion, record: Row) -> str | None:
        """Return the zone of a record: the feed's zone, else by PLMN, else by country, else the default (P5)."""
        zones = self.zones[version.zones].zones if version.zones is not None else ()
        for found in (
            [zone for zone in zones if record["zone"] and zone.name == record["zone"]],
            [zone for zone in zones if record["plmn"] and record["plmn"] in zone.plmns],
            [zone for zone in zones if record["country"] and record["country"] in zone.countries],
            [zone for zone in zones if zone.name == version.default_zone],
        ):
            if found:
                return found[0].name
        return None

    def directions(self, version: PlanVersion, record: Row) -> list[tuple[Direction, int | None, int | None]]:
        """Split a record by direction. Return (direction, volume up, volume down) of each part."""
        way, up, down = Direction(record["direction"]), record["volume_up_bytes"], record["volume_down_bytes"]
        by_direction = any(rate.service == "data" and rate.direction != "any" for rate in version.rates)
        splits = record["service"] == Service.DATA and way == Direction.BOTH and by_direction
        if splits and up is not None and down is not None:
            return [(Direction.UP, up, None), (Direction.DOWN, None, down)]
        return [(way, None, None)]

    # One record

    def rate(self, record: Row, key: str, batch: UsageBatch, received: dt.datetime, outcome: Outcome) -> list[Row]:
        """Return the rated rows of an accepted record, and update the totals."""
        card = self.card_of(record)
        assert card is not None
        account, service = card["account"], Service(record["service"]).name.lower()
        day = self.local(account, record["used_at"]).date()
        plan = self.plans[held(self.card_plans[card["iccid"]], day) or ""]
        version = self.version_on(plan.id, day)
        assert version is not None
        raw, up, down = record["quantity"], record["volume_up_bytes"], record["volume_down_bytes"]
        session = None
        if record["session_id"] is not None or batch.cumulative:
            name = (batch.feed, service, record["session_id"] or key)
            arrival = (received - _EPOCH).days
            if arrival - self.sessions[name].heard > 35:
                del self.sessions[name]
            session = self.sessions[name]
            session.heard = max(session.heard, arrival)
        if batch.cumulative:
            assert session is not None
            raw, up, down = growth(session, record, outcome, batch.counter_bits)
        elif session is not None and record["sequence"] is not None:  # deltas have no totals, but numbers
            bare = dict.fromkeys(("volume_up_bytes", "volume_down_bytes", "started_at"))
            growth(session, record | bare | {"quantity": 0}, outcome)
        units_before = 0
        if session is not None:
            units_before = session.units
            session.units += raw
        connects = raw > 0 and units_before == 0
        pool = self.pool_of(card, plan, service, day)
        cycle, late = self.cycle_of(pool.cycle if isinstance(pool, Pool) else plan.cycle, account, day, received)
        parts = self.parts(
            record | {"quantity": raw, "volume_up_bytes": up, "volume_down_bytes": down}, card, version, units_before
        )
        rows = []
        for number, (way, rate, part_raw, units) in enumerate(parts):
            charged = self.charge(
                card, plan, version, rate, way, pool, cycle, record["used_at"], day, received, units, part_raw,
                session, connects and number == 0,
            )  # fmt: skip
            rows.append(
                {
                    "record_key": key, "part": number, "kind": "usage", "feed": batch.feed, "account_id": account,
                    "iccid": card["iccid"], "service": service, "direction": way.name.lower(),
                    "used_at": record["used_at"], "cycle": cycle_name(cycle, cycle_kind(pool, plan)), "day": day,
                    "plan_id": plan.id, "plan_version": version.version, "rate": meter(rate),
                    "zone": self.zone_of(version, record), "country": record["country"], "plmn": record["plmn"],
                    "volume_up_bytes": up if number == 0 else None,
                    "volume_down_bytes": down if number == 0 else None,
                    "quantity_raw": part_raw, "billable_quantity": units, "currency": plan.currency, "late": late,
                    "session_id": record["session_id"], "received_at": received,
                }
                | charged
            )  # fmt: skip
        return rows

    def pool_of(self, card: Row, plan: Plan, service: str, day: Day) -> Pool | str | None:
        """Return the pool that a record draws on, or the name of a device that acts as a pool, or None (P7, A1)."""
        name = held(self.card_pools[card["iccid"]], day)
        if name is not None:
            return self.pools[name] if service in self.pools[name].services else None
        return card["device"] if plan.entity == "device" else None

    def cycle_of(self, cycle: Cycle, account: str, day: Day, received: dt.datetime) -> tuple[tuple[Day, Day], bool]:
        """Return the first and the last day of the cycle that a record counts in, and whether it is late (T5)."""
        first, last = cycle_days(cycle, day)
        zone = ZoneInfo(self.accounts[account].time_zone)
        after = last + dt.timedelta(days=1)
        closes = dt.datetime(after.year, after.month, after.day, tzinfo=zone).astimezone(dt.UTC)
        if received <= closes + dt.timedelta(hours=self.accounts[account].grace_hours):
            return (first, last), False
        return cycle_days(cycle, received.astimezone(zone).date()), True

    def parts(
        self, record: Row, card: Row, version: PlanVersion, units_before: int
    ) -> list[tuple[Direction, Rate, int, int]]:
        """Return (direction, rate, raw units, billable units) of each part of a record (P3, P4)."""
        service = Service(record["service"]).name.lower()
        zone = self.zone_of(version, record)
        found = []
        for way, up, down in self.directions(version, record):
            raw = record["quantity"] if up is None and down is None else up or down or 0
            spans: list[tuple[str | None, dt.timedelta]] = [(None, dt.timedelta(seconds=1))]
            if any(rate.service == service and rate.band is not None for rate in version.rates):
                start = record["started_at"] or record["used_at"]
                lasts = dt.timedelta(seconds=record["quantity"] if service == "voice" else 0)
                end = max(start, record["ended_at"] or start + lasts)
                spans = self.bands(version, card["account"], start, end)
            rates = [find_rate(version, service, way, zone, band) for band, _ in spans]
            first = rates[0]
            assert first is not None
            if first.increment.per == "session":
                total = billable(first, version, units_before + raw) - billable(first, version, units_before)
            else:
                total = billable(first, version, raw)
            whole = sum((span for _, span in spans), dt.timedelta())
            shares = [(raw, total)] if len(spans) == 1 else []
            reached = dt.timedelta()
            for _, span in spans if len(spans) > 1 else []:
                earlier, reached = reached, reached + span
                shares.append(tuple(units * reached // whole - units * earlier // whole for units in (raw, total)))  # type: ignore[arg-type]
            for rate, (part_raw, part_billable) in zip(rates, shares, strict=True):
                assert rate is not None
                found.append((way, rate, part_raw, part_billable))
        return found

    def bands(
        self, version: PlanVersion, account: str, start: dt.datetime, end: dt.datetime
    ) -> list[tuple[str | None, dt.timedelta]]:
        """Return the bands from start to end with their durations.

        It steps by quarters of an hour, because both clocks and bands change only then.
        """
        spans: list[tuple[str | None, dt.timedelta]] = []
        at = start
        quarter = dt.timedelta(minutes=15)
        while at < end or not spans:
            until = min(end, _EPOCH + ((at - _EPOCH) // quarter + 1) * quarter)
            band = band_at(version, self.local(account, at))
            if spans and spans[-1][0] == band:
                spans[-1] = (band, spans[-1][1] + (until - at))
            else:
                spans.append((band, until - at))
            at = until
            if end <= start:
                break
        return spans

    def charge(
        self,
        card: Row,
        plan: Plan,
        version: PlanVersion,
        rate: Rate,
        way: Direction,
        pool: Pool | str | None,
        cycle: tuple[Day, Day],
        used_at: dt.datetime,
        day: Day,
        received: dt.datetime,
        units: int,
        raw: int,
        session: Session | None,
        connects: bool,
    ) -> Row:
        """Take one part from allowances in order (P6), count and price it. Return the measures of its row."""
        kind, name = ("sim", card["iccid"])
        own_name = counted = self.billed_as(card)
        if pool is not None:
            kind, name = ("pool", pool.id) if isinstance(pool, Pool) else ("device", pool)
            counted = name
        label = cycle_name(cycle, cycle_kind(pool, plan))
        total = self.counters[kind, counted, meter(rate), label]
        allowance = allowance_of(version, meter(rate))
        plainly = pool is None and allowance == 0
        entered = total["records"] > 0

        from_test = min(units, self.test_left(card, version, rate.service, day))
        self.test_used[card["iccid"]] += from_test
        wants = allowed = units - from_test
        bucket = total
        if pool is None:
            if rate.prorate_allowance:
                of_owner = self.owned_by(card["iccid"], card["account"])
                allowance = self.share(card["iccid"], cycle, lambda one: allowance_of(one, meter(rate)), of_owner)
            if self.ended(card["iccid"], day):
                allowance = 0
        else:
            own = self.counters["sim", own_name, meter(rate), label]
            if rate.sim_cap is not None:
                cap = parse_quantity(rate.sim_cap, rate.service, version.data_base)
                allowed = min(allowed, max(0, cap - own["in_pool"]))
            own["in_pool"] += units
            now = min(max(self.local(card["account"], received).date(), cycle[0]), cycle[1])
            allowance = self.pool_size(pool, meter(rate), rate.service, cycle, now)
            if isinstance(pool, Pool) and fixed_size(pool, rate.service) is not None:
                bucket = self.counters[kind, counted, rate.service, label]
        from_allowance = min(allowed, max(0, allowance - bucket["allowance"]))
        bucket["allowance"] += from_allowance
        from_addon = 0
        if pool is None:
            from_addon = self.burn_addons(card, rate.service, used_at, day, wants - from_allowance)
        overage = wants - from_allowance - from_addon

        price_rate, base = rate, version.data_base
        if isinstance(pool, Pool):
            own_rate = pool_rate(pool, rate.service, way)
            price_rate, base = (own_rate, pool.data_base) if own_rate is not None else (rate, base)
        priced = self.counters[kind, counted, meter(price_rate), label]
        overage_before = priced["overage"]
        spec = PriceSpec(price_rate.price, price_rate.rounding, price_rate.service, base)
        charge = self.cost(spec, priced, overage, plainly, entered, session, connects)
        priced["overage"] += overage
        priced["charge_nanos"] += charge
        before = total["billable"]
        for column, amount in (
            ("records", 1), ("raw", raw), ("billable", units), ("test", from_test), ("addon", from_addon)
        ):  # fmt: skip
            total[column] += amount
        return {
            "subject_kind": kind, "subject": name, "from_test": from_test, "from_allowance": from_allowance,
            "from_addon": from_addon, "overage": overage, "charge_nanos": charge, "counter_before": before,
            "counter_after": before + units, "overage_before": overage_before,
        }  # fmt: skip

    def test_left(self, card: Row, version: PlanVersion, service: str, day: Day) -> int:
        """Return the units of the test allowance that a card may still use on a day (C2)."""
        if version.test is None or service != "data" or card["test_from"] is None:
            return 0
        last = add_months(card["test_from"], version.test.months) - dt.timedelta(days=1)
        if card["activated_on"] is not None:
            last = min(last, card["activated_on"] - dt.timedelta(days=1))
        if not card["test_from"] <= day <= last:
            return 0
        amount = parse_quantity(version.test.amount, "data", version.data_base)
        return max(0, amount - self.test_used[card["iccid"]])

    def device_of(self, iccid: str, day: Day) -> str | None:
        """Return the device that a card is billed with on a day, or None (A1)."""
        plan = held(self.card_plans[iccid], day)
        by_device = plan is not None and self.plans[plan].entity == "device"
        found: str | None = self.fact_on(iccid, "device", day) if by_device else None
        return found if held(self.card_pools[iccid], day) is None else None

    def pool_size(self, pool: Pool | str, counter: str, service: str, cycle: tuple[Day, Day], now: Day) -> int:
        """Return the size of a pool or shared device on a day (P7)."""
        if isinstance(pool, Pool):
            fixed = fixed_size(pool, service)
            if fixed is not None:
                return fixed
        size = 0
        for iccid, card in self.cards.items():
            if not self.serves(iccid, now) or held(self.card_plans[iccid], now) is None:
                continue
            if not self.shares(iccid, pool, now):
                continue
            if isinstance(pool, Pool) and pool.joining == "prorate":
                size += self.share(
                    iccid,
                    cycle,
                    lambda one: allowance_of(one, counter),
                    lambda day, who=iccid: self.shares(who, pool, day),
                )  # type: ignore[misc]
                continue
            best = self.share(
                iccid,
                cycle,
                lambda one: allowance_of(one, counter) if prorates(one, counter) else 0,
                self.owned_by(iccid, card["account"]),
            )
            for spell in self.card_plans[iccid]:
                if spell.first <= now and spell.last >= cycle[0]:
                    versions = sorted(self.plans[spell.target].versions, key=lambda version: version.effective)
                    ends = [*(version.effective for version in versions[1:]), FOR_EVER]
                    for version, end in zip(versions, ends, strict=True):
                        if version.effective <= now and end > cycle[0] and not prorates(version, counter):
                            best = max(best, allowance_of(version, counter))
            size += best
        return size

    def shares(self, iccid: str, pool: Pool | str, day: Day) -> bool:
        """Return whether a card shares a pool or device on a day."""
        if isinstance(pool, Pool):
            return held(self.card_pools[iccid], day) == pool.id
        return self.device_of(iccid, day) == pool

    def billed_as(self, card: Row) -> str:
        """Return the name of a card's own totals: each account that comes to own it has others."""
        first = card["account"] == self.first_account[card["iccid"]]
        return str(card["iccid"]) if first else f"{card['iccid']} of {card['account']}"

    def burn_addons(self, card: Row, service: str, used_at: dt.datetime, day: Day, wants: int) -> int:
        """Take up to `wants` units from the card's add-ons, by expiry, then purchase (P6). Return the taken units."""
        taken = 0
        for addon in sorted(self.addons.values(), key=lambda addon: (addon.expires_on, addon.purchased_at)):
            own = addon.iccid == card["iccid"] and addon.service == service
            if own and addon.purchased_at <= used_at and day <= addon.expires_on:
                left = parse_quantity(addon.amount, service, 1024) - self.addon_used[addon.id]
                part = min(left, wants - taken)
                self.addon_used[addon.id] += part
                taken += part
        return taken

    def cost(
        self, spec: PriceSpec, priced: dict[str, int], overage: int, plainly: bool, entered: bool,
        session: Session | None, connects: bool,
    ) -> int:  # fmt: skip
        """Return the charge of a part in nanos: F(after) - F(before) over the basis of the price, rounded (P2, P3).

        If the price rounds by record, the difference is rounded; otherwise each F is.
        """
        price = spec.price
        basis = "record" if price.basis == "session" and session is None else price.basis
        before, after = priced["overage"], priced["overage"] + overage
        unentered_before = not entered if plainly else before == 0
        unentered_after = False if plainly else after == 0
        if basis == "record":
            before, after, unentered_before = 0, overage, True
            unentered_after = not plainly and overage == 0
        elif basis == "session" and session is not None:
            before, after = session.overage, session.overage + overage
            session.overage = after
            unentered_before, unentered_after = before == 0, after == 0
        if price.model == "capacity":
            before, after = priced["peak"], max(priced["peak"], overage)
            priced["peak"] = after
            unentered_before, unentered_after = before == 0, after == 0
        one = Fraction(0) if unentered_before else reference_cost(spec, before)
        other = Fraction(0) if unentered_after else reference_cost(spec, after)
        fee = Fraction(price.connect_fee) * 10**9 if connects else Fraction(0)

        def rounded(value: Fraction) -> int:
            return round_nanos(value, spec.rounding.decimals, spec.rounding.mode)

        if spec.rounding.at == "record":
            return rounded(fee + other - one)
        return int(fee) + rounded(other) - rounded(one)
