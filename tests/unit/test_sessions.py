"""Cumulative session volumes become deltas (F3), and what runs over a session (P2, P3)."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest

from rating.engine import Engine
from rating.usage.sessions import Sessions
from schemas.plans import Increment, Price, Rate
from schemas.usage import RecordType, Service
from tests.support.fold_case import NOON, RECEIVED, Row, charges, engine, plan, rows_of, usage

DATA = plan(Rate(service="data"))


def report(minute: int, quantity: int, sequence: int | None = None, **fields: object) -> Row:
    """A cumulative report of session s so many minutes after noon."""
    at = NOON + dt.timedelta(minutes=minute)
    return {"used_at": at, "quantity": quantity, "sequence": sequence, "session_id": "s"} | fields


def growth(*reports: Row, by: int = 100, counter_bits: int = 0) -> list[int]:
    """The usage that each report brings; the reports come `by` in a batch."""
    weir = engine(DATA)
    found: list[int] = []
    for first in range(0, len(reports), by):
        batch = usage(*reports[first : first + by], cumulative=True, first_row=first + 1, counter_bits=counter_bits)
        found += weir.usage(batch).rated["quantity_raw"].to_pylist()
    return found


@pytest.mark.parametrize("by", [1, 2, 100])
class TestGrowth:
    def test_running_totals_become_deltas(self, by: int) -> None:
        """Each report counts what was added since the one before it; they sum to the last total."""
        assert [10, 20, 0, 5] == growth(report(0, 10), report(1, 30), report(2, 30), report(3, 35), by=by)

    def test_a_decrease_is_a_new_segment(self, by: int) -> None:
        """A counter that restarted counts in full, and never as negative usage."""
        assert [100, 40, 20] == growth(report(0, 100), report(1, 40), report(2, 60), by=by)

    def test_a_report_older_than_the_newest_adds_nothing(self, by: int) -> None:
        """A partial that arrives out of order was counted by the one after it."""
        assert [10, 90, 0, 20] == growth(
            report(1, 10, 1), report(3, 100, 3), report(2, 60, 2), report(4, 120, 4), by=by
        )
        assert [10, 90, 0, 20] == growth(report(1, 10), report(3, 100), report(2, 60), report(4, 120), by=by)

    def test_the_number_decides_before_the_time(self, by: int) -> None:
        """Of two reports of one minute the higher number is the newer."""
        assert [10, 5] == growth(report(5, 10, 1), report(5, 15, 2), by=by)
        assert [15, 0] == growth(report(5, 15, 2), report(5, 10, 1), by=by)

    def test_numbers_that_begin_anew_are_no_old_reports(self, by: int) -> None:
        """A session that restarts counts from sequence number 1 again, later in time."""
        assert [10, 90, 7, 3] == growth(report(1, 10, 1), report(2, 100, 2), report(3, 7, 1), report(4, 10, 2), by=by)

    def test_numbers_that_are_missing_now_and_then(self, by: int) -> None:
        """A report without a number does not make the session forget the last one."""
        reports = report(1, 10, 5), report(2, 30), report(1, 10, 3), report(3, 40, 6)
        assert [10, 20, 0, 10] == growth(*reports, by=by)

    def test_directions_grow_each_for_itself(self, by: int) -> None:
        """Volumes up and down are deltas too, and restart with the session."""
        weir = engine(DATA)
        rows = []
        reports = [(10, 90), (15, 185), (1, 4)]
        for first, (up, down) in enumerate(reports):
            row = report(first, up + down, volume_up_bytes=up, volume_down_bytes=down)
            rows += rows_of(weir.usage(usage(row, cumulative=True, first_row=first + 1)).rated)
        assert [(10, 90), (5, 95), (1, 4)] == [(row["volume_up_bytes"], row["volume_down_bytes"]) for row in rows]
        assert [100, 100, 5] == [row["quantity_raw"] for row in rows]

    def test_directions_restart_each_for_itself(self, by: int) -> None:
        """A counter down that restarts leaves the one up alone, which would count twice."""
        reports = [(10, 400), (20, 30), (25, 50)]
        rows = [
            report(minute, up + down, volume_up_bytes=up, volume_down_bytes=down)
            for minute, (up, down) in enumerate(reports)
        ]
        assert [410, 40, 25] == growth(*rows, by=by)

    def test_a_late_report_before_a_restart_counts_what_it_adds(self, by: int) -> None:
        """In order 100, 180 and a restart at 50 are 230; so they are in any other order."""
        first, second, third = report(1, 100), report(2, 180), report(3, 50)
        for order in itertools.permutations((first, second, third)):
            assert 230 == sum(growth(*order, by=by))
        assert [100, 50, 80] == growth(first, third, second, by=by)

    def test_a_full_counter_begins_again(self, by: int) -> None:
        """A counter of 32 bits that is nearly full and then small has wrapped; one that was not full has restarted."""
        reports = [report(n, total) for n, total in enumerate((0, 4_000_000_000, 100_000_000, 200_000_000, 50))]
        assert [0, 4_000_000_000, 394_967_296, 100_000_000, 50] == growth(*reports, by=by, counter_bits=32)
        for order in itertools.permutations(reports[:4]):
            assert 4_494_967_296 == sum(growth(*order, by=by, counter_bits=32))
        assert [0, 4_000_000_000, 100_000_000, 100_000_000, 50] == growth(*reports, by=by)

    def test_a_session_that_comes_again_after_its_stop_is_another(self, by: int) -> None:
        """What follows a stop counts in full, also if it is more than the total before; a stop may have no total."""
        stop = {"record_type": RecordType.STOP}
        reports = [report(1, 100), report(2, 120, **stop), report(3, 150), report(4, 0, **stop), report(5, 160)]
        assert [100, 20, 150, 0, 160] == growth(*reports, by=by)
        for order in itertools.permutations(reports[:4]):
            assert 270 == sum(growth(*order, by=by))

    def test_another_session_start_is_another_session(self, by: int) -> None:
        """The same id with another start counts in full; a report that does not say goes on with the one before."""
        one, two = NOON, NOON + dt.timedelta(minutes=10)
        reports = [
            report(1, 100, started_at=one), report(5, 110), report(11, 150, started_at=two), report(12, 170),
        ]  # fmt: skip
        assert [100, 10, 150, 20] == growth(*reports, by=by)

    def test_what_cannot_be_placed_is_a_gap(self, by: int) -> None:
        """A report older than those that are remembered, and larger, was before a restart that nobody saw."""
        weir = engine(DATA)
        reports = [*(report(minute, minute) for minute in range(10, 16)), report(1, 5), report(2, 900)]
        gaps: list[Row] = []
        units = 0
        for first in range(0, len(reports), by):
            step = weir.usage(usage(*reports[first : first + by], cumulative=True, first_row=first + 1))
            gaps += rows_of(step.gaps)
            units += sum(step.rated["quantity_raw"].to_pylist())
        assert 15 == units
        assert [1] == [gap["missing"] for gap in gaps]

    def test_a_report_without_directions_is_no_restart(self, by: int) -> None:
        """Directions that a report leaves out stand as they were; the total still grows."""
        whole = report(0, 100, volume_up_bytes=40, volume_down_bytes=60)
        bare = report(1, 130, volume_up_bytes=None, volume_down_bytes=None)
        again = report(2, 150, volume_up_bytes=60, volume_down_bytes=90)
        assert [100, 30, 20] == growth(whole, bare, again, by=by)


def test_sessions_of_feeds_and_services_stay_apart() -> None:
    """The same session id means another session in another feed or service."""
    weir = engine(plan(Rate(service="data"), Rate(service="voice")))
    for feed, service in (("one", Service.DATA), ("two", Service.DATA), ("one", Service.VOICE)):
        row = report(0, 50, service=service, record_key=service.name)
        rated = weir.usage(usage(row, feed=feed, cumulative=True)).rated
        assert [50] == rated["quantity_raw"].to_pylist()


def test_cycle_to_date_totals_are_sessions_of_a_card() -> None:
    """Cycle-to-date totals fall back to little as the cycle begins, and all of that is new usage."""
    days = [(29, 700), (30, 900), (31, 950), (32, 30), (33, 80)]
    reports = [
        {
            "session_id": "1",
            "used_at": dt.datetime(2026, 9, 30, 12, tzinfo=dt.UTC) + dt.timedelta(days=day),
            "quantity": total,
        }
        for day, total in days
    ]
    step = engine(DATA).usage(usage(*reports, cumulative=True, received=dt.datetime(2026, 11, 3, tzinfo=dt.UTC)))
    assert [700, 200, 50, 30, 50] == step.rated["quantity_raw"].to_pylist()
    assert ["2026-10"] * 3 + ["2026-11"] * 2 == step.rated["cycle"].to_pylist()


def test_missing_partials_are_reported() -> None:
    """A jump in sequence numbers is a gap, with the numbers around it, wherever the batch was cut."""
    reports = [report(1, 10, 1), report(2, 20, 2), report(5, 100, 5), report(4, 60, 4), report(6, 120, 6)]
    for by in (1, 2, 5):
        weir = engine(DATA)
        gaps = []
        for first in range(0, 5, by):
            gaps += rows_of(weir.usage(usage(*reports[first : first + by], cumulative=True, first_row=first + 1)).gaps)
        names = ("session_id", "iccid", "service", "after_sequence", "before_sequence", "missing")
        assert [("s", "1", "data", 2, 5, 2), ("s", "1", "data", 2, 5, -1)] == [
            tuple(gap[name] for name in names) for gap in gaps
        ]  # partial 4 was missing, and came late
        assert [3, 4] == [gap["journal_offset"] for gap in gaps]  # the catalogue was entry 0


def test_missing_partials_of_a_feed_of_deltas() -> None:
    """There a partial that is missing is usage that is lost; what starts a record is no start of the session."""
    reports = [
        report(n, 5, n, started_at=NOON + dt.timedelta(minutes=n), record_type=RecordType.INTERIM) for n in (1, 2, 5, 4)
    ]
    for by in (1, 2, 4):
        weir = engine(DATA)
        found = []
        for first in range(0, 4, by):
            step = weir.usage(usage(*reports[first : first + by], first_row=first + 1))
            assert [5] * len(step.rated) == step.rated["quantity_raw"].to_pylist()
            found += [(gap["after_sequence"], gap["before_sequence"], gap["missing"]) for gap in rows_of(step.gaps)]
        assert [(2, 5, 2), (2, 5, -1)] == found


def test_a_session_is_over_after_35_days_of_silence() -> None:
    """After so long the same id is another session, whose figure counts in full."""
    weir = engine(DATA)
    found = []
    for number, received in enumerate(
        (RECEIVED, RECEIVED + dt.timedelta(days=35), RECEIVED + dt.timedelta(days=71)), 1
    ):
        row = report(0, 100 * number, used_at=received, record_key=f"k{number}")
        found += weir.usage(usage(row, cumulative=True, received=received)).rated["quantity_raw"].to_pylist()
    assert [100, 100, 300] == found


def test_an_earlier_arrival_does_not_end_a_session() -> None:
    """Usage taken in as of an earlier day leaves the session as recently heard of as it was."""
    weir = engine(DATA)
    early = RECEIVED - dt.timedelta(days=40)
    found = []
    for number, (received, total) in enumerate(((RECEIVED, 100), (early, 40), (RECEIVED, 130))):
        row = report(number, total, used_at=received + dt.timedelta(minutes=number), record_key=f"k{number}")
        found += weir.usage(usage(row, cumulative=True, received=received)).rated["quantity_raw"].to_pylist()
    assert [100, 0, 30] == found


def priced(price: Price, increment: Increment | None = None) -> Engine:
    """An engine that prices voice so."""
    return engine(plan(Rate(service="voice", price=price, increment=increment or Increment())))


def partial(number: int, kind: RecordType, seconds: int, session: str | None = "s") -> Row:
    """A partial record of a call."""
    return {
        "service": Service.VOICE,
        "quantity": seconds,
        "session_id": session,
        "record_type": kind,
        "record_key": f"{session}{number}",
    }


def test_a_connect_fee_is_due_once_a_session() -> None:
    """The first partial to arrive pays it, whichever it is; a record of no session pays for itself."""
    weir = priced(Price(model="free", connect_fee="1"))
    partials = [
        partial(2, RecordType.INTERIM, 5),
        partial(1, RecordType.START, 5),
        partial(3, RecordType.STOP, 5),
        partial(1, RecordType.EVENT, 5, None),
        partial(2, RecordType.EVENT, 5, None),
    ]
    assert [10**9, 0, 0, 10**9, 10**9] == list(charges(weir.usage(usage(*partials))).values())


def test_increments_over_a_session_round_its_total() -> None:
    """Partials of 20, 20 and 25 s count as one call of 65 s in minutes: two of them, not three."""
    weir = priced(Price(model="flat", price="1", per=60), Increment(step=60, per="session"))
    found = [weir.usage(usage(partial(n, RecordType.INTERIM, s))).rated for n, s in enumerate((20, 20, 25))]
    assert [60, 0, 60] == [row["billable_quantity"] for rated in found for row in rows_of(rated)]


def test_prices_over_a_session_begin_anew_with_it() -> None:
    """Started blocks of a minute run over the partials of one call."""
    weir = priced(Price(model="package", price="1", per=60, basis="session"))
    calls = [partial(1, RecordType.START, 50), partial(2, RecordType.STOP, 20), partial(1, RecordType.START, 5, "t")]
    assert [10**9, 10**9, 10**9] == list(charges(weir.usage(usage(*calls))).values())
    more = [partial(3, RecordType.STOP, 50), partial(1, RecordType.EVENT, 61, None)]
    assert [0, 2 * 10**9] == list(charges(weir.usage(usage(*more))).values())


def test_sessions_of_an_older_snapshot() -> None:
    """A snapshot that kept only the newest report of each session is read, and its sessions go on."""
    weir = engine(DATA)
    weir.usage(usage(report(1, 100, 1), cumulative=True))
    table = weir.state.sessions.to_table()
    names = {"us_0": "newest_us", "sequence_0": "sequence", "quantity_0": "quantity", "up_0": "up", "down_0": "down"}
    kept = table.select(["key", *names, "seen_day", "units", "overage"])
    earlier = kept.rename_columns([names.get(name, name) for name in kept.column_names])
    earlier = earlier.append_column("newest_sequence", earlier["sequence"])
    weir.state.sessions = Sessions.from_table(earlier)
    assert [30] == weir.usage(usage(report(2, 130, 2), cumulative=True, first_row=2)).rated["quantity_raw"].to_pylist()
    assert [0] == weir.usage(usage(report(0, 50, 0), cumulative=True, first_row=3)).rated["quantity_raw"].to_pylist()
