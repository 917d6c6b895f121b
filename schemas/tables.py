"""Arrow schemas of the tables that leave the engine. docs/tables.md describes each column for analysts.


A change of a schema has a line in the change log. Columns are added, never removed.
"""

from __future__ import annotations

import pyarrow as pa

import schemas.arrow  # noqa: F401  # before any array: pandas stays out

_WORD = pa.dictionary(pa.int32(), pa.string())
_INSTANT = pa.timestamp("us", "UTC")

RATED = pa.schema(
    [
        ("record_key", pa.string()),
        ("part", pa.int16()),  # 0; 1, 2, ... for the further parts of a record that was split at a boundary (P4)
        ("kind", _WORD),  # usage | reversal | rerate
        ("feed", _WORD),
        ("account_id", _WORD),
        ("iccid", pa.string()),
        ("subject_kind", _WORD),  # sim | device | pool: the billing entity
        ("subject", pa.string()),  # its ICCID, device id or pool id
        ("service", _WORD),
        ("direction", _WORD),
        ("used_at", _INSTANT),
        ("cycle", _WORD),  # first day of the billing cycle: 2026-10 if that is the 1st, else 2026-10-15
        ("day", pa.date32()),  # local day of used_at in the account's zone
        ("plan_id", _WORD),
        ("plan_version", pa.int32()),
        ("rate", _WORD),  # name of the counter that priced it, e.g. data, data/home, sms/mo
        ("zone", _WORD),
        ("country", _WORD),
        ("plmn", _WORD),
        ("volume_up_bytes", pa.int64()),
        ("volume_down_bytes", pa.int64()),
        ("quantity_raw", pa.int64()),
        ("billable_quantity", pa.int64()),
        ("from_test", pa.int64()),
        ("from_allowance", pa.int64()),
        ("from_addon", pa.int64()),
        ("overage", pa.int64()),
        ("charge_nanos", pa.int64()),
        ("currency", _WORD),
        ("late", pa.bool_()),
        ("counter_before", pa.int64()),  # billable units of the subject in the cycle before this row
        ("counter_after", pa.int64()),  # billable units of the subject in the cycle after this row
        ("overage_before", pa.int64()),  # overage units before this row: the price function starts from them
        ("session_id", pa.string()),
        ("received_at", _INSTANT),
        ("source", _WORD),
        ("source_row", pa.int64()),
        ("journal_partition", pa.int32()),
        ("journal_offset", pa.int64()),  # number of the usage record in its partition; unique with `kind` and `part`
    ]
)

REJECTED = pa.schema(
    [
        ("reject_id", pa.string()),  # <source digest>:<row>[:<record key>], the same each time the record is rejected
        ("feed", _WORD),
        ("source", _WORD),
        ("source_row", pa.int64()),
        ("received_at", _INSTANT),
        ("reason", _WORD),
        ("field", _WORD),
        ("message", pa.string()),
        ("record_key", pa.string()),
        ("raw", pa.binary()),  # the line as received, without its line end
        ("raw_header", pa.binary()),  # header line of a CSV source, else null
    ]
)

GAPS = pa.schema(
    [
        ("feed", _WORD),
        ("session_id", pa.string()),
        ("iccid", pa.string()),
        ("service", _WORD),
        ("after_sequence", pa.int64()),
        ("before_sequence", pa.int64()),
        ("missing", pa.int64()),
        ("received_at", _INSTANT),
        ("journal_partition", pa.int32()),
        ("journal_offset", pa.int64()),
    ]
)

FIRINGS = pa.schema(
    [
        ("firing_id", pa.string()),  # <partition>.<offset>.<iccid>.<rule>, the same in every replay
        ("rule_id", _WORD),
        ("kind", _WORD),  # fired | released (the condition that suspended the SIM is over: L1, L2)
        ("trigger", _WORD),
        ("owner", _WORD),  # account; null: root
        ("account_id", _WORD),  # of the SIM
        ("iccid", pa.string()),  # the SIM that met the condition
        ("pool_id", _WORD),  # of a pool rule
        ("window", _WORD),  # cycle label, local day, or last day of the term; null if the trigger has no window
        ("unit", _WORD),  # bytes, messages, seconds, sessions, days; null if nothing is counted
        ("value_before", pa.int64()),
        ("value_now", pa.int64()),
        ("size", pa.int64()),  # quota or pool size at that moment; null if the rule does not use it
        ("threshold", pa.int64()),  # highest level met, in `unit`
        ("levels", pa.list_(pa.string())),  # every level crossed, as the rule writes them
        ("from_value", pa.string()),  # what changed: the old value
        ("to_value", pa.string()),  # what changed: the new value
        ("used_at", _INSTANT),  # time of use of the record that met the condition; null if no record did
        ("record_key", pa.string()),
        ("fired_at", _INSTANT),  # arrival of the batch, tick, command or catalogue
        ("journal_partition", pa.int32()),
        ("journal_offset", pa.int64()),
    ]
)

ACTIONS = pa.schema(
    [
        ("action_id", pa.string()),  # <partition>.<offset>.<iccid>.<sequence>.<rule>, the same in every replay
        ("firing_id", pa.string()),
        ("rule_id", _WORD),
        ("sequence", pa.int32()),
        ("action", _WORD),  # suspend, resume, throttle, notify …
        ("account_id", _WORD),
        ("iccid", pa.string()),
        ("parameters", _WORD),  # JSON object of the fields of the action, as the rule writes them
        ("created_at", _INSTANT),
        ("journal_partition", pa.int32()),
        ("journal_offset", pa.int64()),
    ]
)

RESULTS = pa.schema(
    [
        ("action_id", pa.string()),
        ("iccid", pa.string()),
        ("outcome", _WORD),  # type of the command (suspended, resumed, done, failed …), or refused
        ("message", pa.string()),
        ("at", _INSTANT),
        ("journal_partition", pa.int32()),
        ("journal_offset", pa.int64()),
    ]
)

CHARGES = pa.schema(
    [
        ("charge_id", pa.string()),  # <partition>.<offset>.<number>, the same in every replay
        ("kind", _WORD),  # fee | pool_fee | addon | minimum
        ("account_id", _WORD),
        ("subject_kind", _WORD),  # sim | device | pool
        ("subject", pa.string()),
        ("plan_id", _WORD),  # null for a fee of a pool
        ("plan_version", pa.int32()),
        ("cycle", _WORD),  # the billing cycle that it belongs to
        ("name", _WORD),  # name of the fee; add-on for the price of an add-on
        ("days", pa.int32()),  # days charged
        ("of_days", pa.int32()),  # days of the cycle
        ("amount_nanos", pa.int64()),
        ("currency", _WORD),
        ("closed_at", _INSTANT),  # arrival of the entry that closed the cycle
        ("journal_partition", pa.int32()),
        ("journal_offset", pa.int64()),
    ]
)

TABLES = {
    "rated": RATED,
    "rejected": REJECTED,
    "gaps": GAPS,
    "firings": FIRINGS,
    "actions": ACTIONS,
    "results": RESULTS,
    "charges": CHARGES,
}
