"""The fixed sets of values that options of the command line and documents share.

It imports nothing heavy, so that help and completion of the command line cost next to nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, get_args

# The network status of a card (C1).
CardStatus = Literal[
    "inventory", "test_ready", "testing", "silent", "activated", "suspended", "deactivated", "cancelled"
]
CARD_STATUSES: Final[tuple[CardStatus, ...]] = get_args(CardStatus)

RuleStatus = Literal["active", "inactive"]

# State of a rule's action (the view `action_states`). The second one is of messages and webhooks: they get no result.
ActionState = Literal["open", "told", "done", "failed"]
ACTION_STATES: Final[tuple[ActionState, ...]] = get_args(ActionState)

# Where an action is on its way to a destination of the outbox.
DeliveryState = Literal["pending", "delivered", "dead"]


class ReportFormat(StrEnum):
    """A format of the files of a report. An enumeration, since Typer takes no list of literals."""

    HTML = "html"
    XLSX = "xlsx"
    CSV = "csv"
    PARQUET = "parquet"


# Whether Avro records have the prefix of a schema registry.
AvroFraming = Literal["auto", "plain", "registry"]

# What a rule watches (L7, L8); rating.rules.triggers says how.
TriggerName = Literal[
    "data_session_started",
    "data_session_stopped",
    "data_session_count_24h",
    "data_usage_24h",
    "data_usage_cycle",
    "data_usage_country_cycle",
    "data_usage_zone_cycle",
    "sms_mo_count_24h",
    "sms_mo_count_cycle",
    "sms_mo_count_country_cycle",
    "sms_mo_count_zone_cycle",
    "sms_mt_count_24h",
    "sms_mt_count_cycle",
    "sms_mt_count_country_cycle",
    "sms_mt_count_zone_cycle",
    "voice_mo_duration_24h",
    "voice_mo_duration_cycle",
    "voice_mo_duration_country_cycle",
    "voice_mo_duration_zone_cycle",
    "voice_mt_duration_24h",
    "voice_mt_duration_cycle",
    "voice_mt_duration_country_cycle",
    "voice_mt_duration_zone_cycle",
    "data_blocked",
    "sms_blocked",
    "voice_blocked",
    "no_data_session_24h",
    "no_sms_24h",
    "no_voice_24h",
    "no_voice_cycle",
    "not_connected_24h",
    "not_connected_cycle",
    "billing_status_changed",
    "custom_attribute_changed",
    "imei_changed",
    "location_changed",
    "msisdn_changed",
    "price_plan_changed",
    "home_data_allowance",
    "price_plan_expired",
    "term_ends",
    "pool_data_usage",
    "pool_sms_mo_usage",
    "pool_sms_mt_usage",
    "pool_voice_mo_usage",
    "pool_voice_mt_usage",
]

# Why a record was rejected (F5).
RejectReason = Literal[
    "malformed",
    "encoding",
    "too_long",
    "missing",
    "bad_value",
    "bad_time",
    "negative",
    "unknown_service",
    "unknown_card",
    "no_plan",
    "no_rate",
    "future",
    "conflict",
    "unknown_key",
]
REASONS: Final[dict[str, str]] = {
    "malformed": "the line is not a record of the feed's format",
    "encoding": "the line is not valid in the feed's text encoding",
    "too_long": "the line is longer than the limit",
    "missing": "a required field is absent or empty",
    "bad_value": "a field holds a value that its type does not allow",
    "bad_time": "a time cannot be read",
    "negative": "a quantity is below zero",
    "unknown_service": "the service of the record is none that the mapping names",
    "unknown_card": "no card has this ICCID, IMSI or MSISDN",
    "no_plan": "the card had no plan at the time of use",
    "no_rate": "the plan has no rate for this service, direction and zone",
    "future": "used more than one hour after it arrived",
    "conflict": "the same key was accepted before with other content",
    "unknown_key": "a correction names a record that was never rated",
}
