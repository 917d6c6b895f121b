"""Rated rows: the result of a batch as a table that leaves the engine (schemas.tables.RATED)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rating.apply import Compiled
from rating.catalogue.pools import DEVICE_PREFIX
from rating.columnar.arrow import instant, known, spelled, text, words
from rating.columnar.groups import distinct
from rating.columnar.key_index import Ints
from rating.usage.accepted_usage import AcceptedUsage
from rating.usage.charge import Rating
from rating.usage.charge_items import Entries
from rating.usage.cycles import cycle_label
from schemas.tables import RATED
from schemas.usage import Direction, RecordType, Service, UsageBatch

_SERVICES = [service.name.lower() for service in Service]
_DIRECTIONS = [direction.name.lower() for direction in Direction]
_UNKNOWN = -1


@dataclass(frozen=True)
class Names:
    """The names that rated rows refer to by number. They change only with the catalogue."""

    iccids: pl.Series  # string[cards]
    pools: pa.Array  # string: ids of all pools and devices
    subject_kinds: Ints  # int64[pools]: 1 pool, 2 device
    meters: list[str]
    zones: list[str]
    zone_of: Ints  # int64[versions, zone slots]: position in `zones`, -1: none
    currencies: list[str]
    currency_of_version: Ints
    plan_ids: list[str]
    plan_of_version: Ints
    version_number: Ints

    @classmethod
    def of(cls, compiled: Compiled) -> Names:
        """Return the names of a compiled catalogue."""
        book = compiled.book
        pools = book.vocabulary.pools.names
        zones: dict[str, int] = {}
        zone_of = np.full((max(len(book.versions), 1), book.rate_at.shape[3]), -1, np.int64)
        for version in range(len(book.versions)):
            for slot in range(1, zone_of.shape[1]):
                if slot <= len(book.zone_keys[book.version_zone_key[version]].zones):
                    name = book.zone_name(version, slot)
                    zone_of[version, slot] = zones.setdefault(name or "", len(zones))
        plans = book.vocabulary.plans
        return cls(
            iccids=compiled.directory.cards["iccid"],
            pools=pa.array([name.removeprefix(DEVICE_PREFIX) for name in pools], pa.string()),
            subject_kinds=np.array([2 if name.startswith(DEVICE_PREFIX) else 1 for name in pools], np.int64),
            meters=book.vocabulary.meters.names,
            zones=list(zones),
            zone_of=zone_of,
            currencies=book.vocabulary.currencies.names,
            currency_of_version=book.currency_of_version,
            plan_ids=plans.names,
            plan_of_version=np.array([plans.rows[plan.id] for plan, _ in book.versions], np.int64),
            version_number=np.array([version.version for _, version in book.versions], np.int64),
        )


def rated_table(compiled: Compiled, names: Names, usage: AcceptedUsage, entries: Entries, rating: Rating) -> pa.Table:
    """Return the rated rows (schemas.tables.RATED) of accepted usage in journal order, one row per charge item."""
    book, accepted, batch, of = compiled.book, usage.accepted, usage.batch, entries.of
    rows = usage.rows[entries.record] if entries.split else usage.rows
    count = len(entries)
    version = of(accepted.version)
    named = "iccid" in rows.columns and not rows["iccid"].null_count()
    iccids = text(rows["iccid"] if named else names.iccids.gather(of(accepted.card)))
    kind, subjects = _subjects(names, rating.subject, iccids)
    # Only the first part of a record carries its volumes, so that they can be summed. Every part has its quantity_raw.
    up, down = of(usage.up), of(usage.down)
    if entries.part.any():
        up, down = (np.where(entries.part == 0, volume, -1) for volume in (up, down))
    zone = names.zone_of[version, of(accepted.zone)]
    codes, code = distinct(of(usage.cycles.code))
    spots = accepted.spots or [("", "", "")]
    spot = of(accepted.spot)

    nought = pa.array(np.zeros(count, np.int32))

    def constant(value: str) -> pa.Array:
        return pa.DictionaryArray.from_arrays(nought, pa.array([value], pa.string()), safe=False)

    columns: dict[str, pa.Array] = {
        "record_key": _text(rows, "record_key"),
        "part": pa.array(entries.part.astype(np.int16)),
        "kind": constant("usage"),
        "feed": constant(batch.feed),
        "account_id": words(of(accepted.account), book.vocabulary.accounts.names),
        "iccid": iccids,
        "subject_kind": words(kind, ["sim", "pool", "device"]),
        "subject": subjects,
        "service": words(of(accepted.service), _SERVICES),
        "direction": words(entries.direction, _DIRECTIONS),
        "used_at": pa.array(of(accepted.used_us)).view(pa.timestamp("us", "UTC")),
        "cycle": words(code, [cycle_label(book, int(one)) for one in codes]),
        "day": pa.array(of(accepted.day).astype(np.int32)).view(pa.date32()),
        "plan_id": words(names.plan_of_version[version], names.plan_ids),
        "plan_version": pa.array(names.version_number[version].astype(np.int32)),
        "rate": words(book.rates.meter[entries.rate], names.meters),
        "zone": words(zone, names.zones),
        "country": spelled(spot, [country for _, country, _ in spots]),
        "plmn": spelled(spot, [plmn for plmn, _, _ in spots]),
        "volume_up_bytes": known(up, _UNKNOWN),
        "volume_down_bytes": known(down, _UNKNOWN),
        "quantity_raw": pa.array(entries.raw),
        "billable_quantity": pa.array(entries.billable),
        "from_test": pa.array(rating.from_test),
        "from_allowance": pa.array(rating.from_allowance),
        "from_addon": pa.array(rating.from_addon),
        "overage": pa.array(rating.overage),
        "charge_nanos": pa.array(rating.charge_nanos),
        "currency": words(names.currency_of_version[version], names.currencies),
        "late": pa.array(of(usage.cycles.late)),
        "counter_before": pa.array(rating.counter_before),
        "counter_after": pa.array(rating.counter_after),
        "overage_before": pa.array(rating.overage_before),
        "session_id": _text(rows, "session_id"),
        "received_at": instant(batch.received_at_us, count),
        "source": constant(batch.source),
        "source_row": pa.array(rows["source_row"].to_numpy()),
        "journal_partition": pa.array(np.full(count, usage.position.partition, np.int32)),
        "journal_offset": pa.array(usage.position.offset + of(accepted.place)),
        **{name: pa.nulls(count, RATED.field(name).type) for name in ("adjusts_cycle", "because", "cause")},
        **{name: _given(rows, name) for name in ("started_at", "ended_at", "sequence")},
        "named_zone": spelled(spot, [zone for _, _, zone in spots]),
        **_reported(rows, batch),
    }
    return pa.table(columns, schema=RATED)


def _subjects(names: Names, subject: Ints, iccids: pa.Array) -> tuple[Ints, pa.Array]:
    """Return the kind (0 SIM, 1 pool, 2 device; int64[n]) and the name of the billing entity of each row."""
    kind = subject & 1
    pooled = np.flatnonzero(kind)
    if not len(pooled):
        return kind, iccids
    kind[pooled] = names.subject_kinds[subject[pooled] >> 1]
    owned = kind > 0
    pool_ids = names.pools.take(pa.array(np.where(owned, subject >> 1, 0)))
    return kind, pc.if_else(pa.array(owned), pool_ids, iccids)


def _given(rows: pl.DataFrame, name: str) -> pa.Array:
    """Return a column of usage that rated rows repeat as it is; nulls if the feed does not have it."""
    kind = RATED.field(name).type
    if name not in rows.columns:
        return pa.nulls(len(rows), kind)
    return rows[name].to_arrow(compat_level=pl.CompatLevel.oldest()).cast(kind)


def _reported(rows: pl.DataFrame, batch: UsageBatch) -> dict[str, pa.Array]:
    """Return what a cumulative feed reported of running totals; nulls for other feeds, whose rows say it already."""
    names = {"quantity": "reported_quantity"}
    names |= {f"volume_{way}_bytes": f"reported_{way}_bytes" for way in ("up", "down")}
    found = {
        new: rows[old].to_arrow().cast(pa.int64()) if batch.cumulative and old in rows.columns else _nothing(rows)
        for old, new in names.items()
    }
    if not batch.cumulative:
        return found | {"ends_session": pa.nulls(len(rows), pa.bool_()), "counter_bits": _nothing(rows)}
    stops = np.zeros(len(rows), np.bool_)
    if "record_type" in rows.columns:
        stops = (rows["record_type"] == int(RecordType.STOP)).fill_null(False).to_numpy()
    bits = np.full(len(rows), batch.counter_bits, np.int64)
    return found | {"ends_session": pa.array(stops), "counter_bits": pa.array(bits)}


def _nothing(rows: pl.DataFrame) -> pa.Array:
    return pa.nulls(len(rows), pa.int64())


def _text(rows: pl.DataFrame, name: str) -> pa.Array:
    if name not in rows.columns:
        return pa.nulls(len(rows), pa.string())
    return text(rows[name])
