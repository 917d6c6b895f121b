"""The triggers: what each of them watches, and which fields of a rule it takes (L7, L8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from schemas.choices import TriggerName
from schemas.rules import Measure, Rule
from schemas.usage import Direction, Service

Kind = Literal["usage", "pool", "event", "silence", "change", "term"]
Place = Literal["anywhere", "country", "zone", "home"]
Unit = Literal["bytes", "messages", "seconds", "sessions", "days"]
Counts = Literal["units", "home", "sessions", "overage"]
Event = Literal["session_started", "session_stopped", "blocked"]

_UNITS: Final[dict[Service, Unit]] = {Service.DATA: "bytes", Service.SMS: "messages", Service.VOICE: "seconds"}


@dataclass(frozen=True)
class Trigger:
    """Definition of a trigger.

    `kind`: "usage" and "pool" compare a running total with a threshold. "event" is an event of a SIM, "silence" is the
    absence of events, "change" is a change of card data, "term" is the end of the term or plan.

    `service` is the service that is counted or watched (None: any), `direction` its MO or MT part (None: all). `place`
    restricts usage to a country, a zone or the home zone. `window` is the period of the total (None: no total).
    `fields` are the rule fields that the trigger takes in addition to those of every rule. `measures` are the measures
    that it can compare; "percent" among them means that thresholds in percent are allowed. `reached` is the default
    for L11: True fires at the threshold, False only strictly above it.

    `counts` is what its running total counts: units, units of the home zone's counter, or sessions (None: no total).
    `event` is the event that fires it. `fact` is the fact about a SIM whose change in a report fires it. `column` is
    the column of CARD_SCHEMA whose change fires it.

    These fields are all that other modules look at. No other module asks for a trigger by name.
    """

    name: TriggerName
    kind: Kind
    text: str  # the condition in one line, for lists and documents
    service: Service | None = None
    direction: Direction | None = None
    place: Place = "anywhere"
    window: Literal["cycle", "day"] | None = None
    unit: Unit | None = None
    fields: tuple[str, ...] = ()
    measures: tuple[Measure | Literal["percent"], ...] = ()
    reached: bool = False
    counts: Counts | None = None
    event: Event | None = None
    fact: Literal["imei", "cell"] | None = None
    column: str | None = None

    @property
    def hears_sessions(self) -> bool:
        """True if the trigger must know whether a data session is new."""
        return self.event == "session_started" or self.counts == "sessions"


def counted(rule: Rule, trigger: Trigger) -> Counts | None:
    """Return what the running total of a rule counts; None if the rule uses no running total.

    A rule on the end of a plan can watch the term only (`by = "time"`). It has no total then.
    """
    return None if rule.by == "time" else trigger.counts


def _usage(
    name: TriggerName, text: str, service: Service, direction: Direction | None, place: Place, window: str
) -> Trigger:
    fields: tuple[str, ...] = ("threshold", "at")
    measures: tuple[Measure | Literal["percent"], ...] = ("used",)
    if window == "day":
        fields += ("window",)
    elif place == "anywhere":
        measures = ("used", "percent", "over", "remaining") + (("hard_cut",) if service == Service.DATA else ())
        fields += ("measure",)
    if place in ("country", "zone"):
        fields += (place,)
    return Trigger(
        name, "usage", text, service, direction, place, "day" if window == "day" else "cycle", _UNITS[service],
        fields, measures, counts="units",
    )  # fmt: skip


def _directed() -> list[Trigger]:
    found = []
    for service, word, what, noun in (
        (Service.SMS, "sms", "count", "SMS"),
        (Service.VOICE, "voice", "duration", "voice"),
    ):
        for direction in (Direction.MO, Direction.MT):
            way = direction.name.lower()
            stem = f"{word}_{way}_{what}"
            said = f"{noun} {way.upper()} of the SIM"
            for name, place, window, text in (
                (f"{stem}_24h", "anywhere", "day", f"{said} within 24 hours"),
                (f"{stem}_cycle", "anywhere", "cycle", f"{said} within the billing cycle"),
                (f"{stem}_country_cycle", "country", "cycle", f"{said} in a country within the billing cycle"),
                (f"{stem}_zone_cycle", "zone", "cycle", f"{said} in a zone within the billing cycle"),
            ):
                found.append(_usage(name, text, service, direction, place, window))  # type: ignore[arg-type]
    return found


def _pool(name: TriggerName, service: Service, direction: Direction | None, said: str) -> Trigger:
    return Trigger(
        name, "pool", f"{said} of a pool in its home zone within the billing cycle", service, direction, "home",
        "cycle", _UNITS[service], ("threshold", "at", "pools"), ("used", "percent"), reached=True,
        counts="units",
    )  # fmt: skip


def _changed(
    name: TriggerName, text: str, column: str | None, *fields: str, fact: Literal["imei", "cell"] | None = None
) -> Trigger:
    return Trigger(name, "change", text, fields=("from", "to", *fields), column=column, fact=fact)


def _blocked(name: TriggerName, text: str, service: Service) -> Trigger:
    return Trigger(name, "event", text, service, event="blocked")


_ALL: Final = [
    Trigger("data_session_started", "event", "a data session of the SIM began", Service.DATA, event="session_started"),
    Trigger("data_session_stopped", "event", "a data session of the SIM ended", Service.DATA, event="session_stopped"),
    Trigger(
        "data_session_count_24h", "usage", "data sessions of the SIM within 24 hours", Service.DATA, None, "anywhere",
        "day", "sessions", ("threshold", "at", "window"), ("used",), counts="sessions",
    ),
    _usage("data_usage_24h", "data of the SIM within 24 hours", Service.DATA, None, "anywhere", "day"),
    _usage("data_usage_cycle", "data of the SIM within the billing cycle", Service.DATA, None, "anywhere", "cycle"),
    _usage(
        "data_usage_country_cycle", "data of the SIM in a country within the billing cycle", Service.DATA, None,
        "country", "cycle",
    ),
    _usage(
        "data_usage_zone_cycle", "data of the SIM in a zone within the billing cycle", Service.DATA, None, "zone",
        "cycle",
    ),
    *_directed(),
    _blocked("data_blocked", "data of the SIM was blocked by its security profile", Service.DATA),
    _blocked("sms_blocked", "SMS of the SIM was blocked by its security profile", Service.SMS),
    _blocked("voice_blocked", "voice of the SIM was blocked by its security profile", Service.VOICE),
    Trigger("no_data_session_24h", "silence", "no data session of the SIM for 24 hours", Service.DATA, window="day"),
    Trigger("no_sms_24h", "silence", "no SMS of the SIM for 24 hours", Service.SMS, window="day"),
    Trigger("no_voice_24h", "silence", "no voice of the SIM for 24 hours", Service.VOICE, window="day"),
    Trigger("no_voice_cycle", "silence", "no voice of the SIM in a whole billing cycle", Service.VOICE, window="cycle"),
    Trigger("not_connected_24h", "silence", "the SIM was not connected for 24 hours", window="day"),
    Trigger("not_connected_cycle", "silence", "the SIM was not connected in a whole billing cycle", window="cycle"),
    _changed("billing_status_changed", "the status of the SIM changed", "status"),
    _changed("custom_attribute_changed", "a custom field of the SIM changed", "custom", "attribute"),
    _changed("imei_changed", "the SIM sits in another device", "imei", fact="imei"),
    _changed(
        "location_changed", "the cell of the SIM changed, within or between data sessions", None, "across", fact="cell"
    ),
    _changed("msisdn_changed", "the MSISDN of the SIM changed", "msisdn"),
    _changed("price_plan_changed", "the plan of the SIM changed", "plan"),
    Trigger(
        "home_data_allowance", "usage", "the data included for the home zone is nearly or fully used up", Service.DATA,
        None, "home", "cycle", "bytes", ("threshold", "at", "measure"), ("used", "percent", "remaining"), reached=True,
        counts="home",
    ),
    Trigger(
        "price_plan_expired", "term", "the plan of the SIM expired: its data is used up, or its term is over",
        Service.DATA, None, "anywhere", "cycle", fields=("by",), reached=True, counts="units",
    ),
    Trigger(
        "term_ends", "term", "the term of the SIM ends in so many days", unit="days", fields=("threshold",),
        measures=("used",), reached=True,
    ),
    _pool("pool_data_usage", Service.DATA, None, "data"),
    _pool("pool_sms_mo_usage", Service.SMS, Direction.MO, "SMS MO"),
    _pool("pool_sms_mt_usage", Service.SMS, Direction.MT, "SMS MT"),
    _pool("pool_voice_mo_usage", Service.VOICE, Direction.MO, "voice MO"),
    _pool("pool_voice_mt_usage", Service.VOICE, Direction.MT, "voice MT"),
]  # fmt: skip

TRIGGERS: Final[dict[str, Trigger]] = {trigger.name: trigger for trigger in _ALL}


def reached(trigger: Trigger, at: str | None, measure: Measure) -> bool:
    """Return True if a rule fires at its threshold, False if only strictly above it.

    By default usage must exceed the threshold. Pool usage, the home allowance, the remaining quota, a hard cut (L2) and
    terms must reach it. `at`, the field of the rule, overrides the default (L11).
    """
    if at is not None:
        return at == "reached"
    return trigger.reached or measure in ("remaining", "hard_cut")
