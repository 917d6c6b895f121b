"""Cards, pools, rejected records, status: what the lists hold, and how they look in a terminal (Q1, Q2, Q6)."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import unicodedata
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from jobs.output.printable import UNPRINTABLE
from jobs.show.gauges import Gauge, list_pools, pool_detail
from jobs.show.listing import card_detail, engine_status, list_cards, list_rejected, nanos_as_amount, raw_preview
from jobs.show.listing_text import (
    gauge_bar,
    render_card,
    render_cards,
    render_pool,
    render_pools,
    render_rejected,
    render_status,
    safe,
)
from rating.errors import UsageError
from rating.queries.schemas import StateViews
from tests.support.rated_rows import MB, OCTOBER, history, rated_table, reject_table, small_events, small_views, views

NOW = dt.datetime(2026, 10, 21, 12, tzinfo=dt.UTC)
HOSTILE = "\x1b]0;x\x07[red]\u202e\x9b31m"


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    """The small history, with rejected lines of which one is hostile."""
    rejects: list[dict[str, Any]] = [
        {"raw": b"a\x1b[31m,\xff\x00", "message": HOSTILE, "received_at": dt.datetime(2026, 10, 13, tzinfo=dt.UTC)},
        {"reason": "unknown_card"},
        {"raw": None, "reason": "malformed"},
    ]
    return history(tmp_path_factory.mktemp("history"), rated_table(small_events()), reject_table(rejects))


def shown(renderable: RenderableType, width: int = 160) -> str:
    """What a terminal without colours is sent."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(renderable)
    return out.getvalue()


def iccids(**filters: object) -> list[str]:
    """Last digits of the cards that meet the filters."""
    page = list_cards(small_views(), NOW, **filters)  # type: ignore[arg-type]
    return [iccid[-1] for iccid in page.rows["iccid"]]


def test_cards_come_by_iccid_with_their_usage() -> None:
    """Cards are listed in order of ICCID with the usage of the open cycle; shared usage is not theirs."""
    page = list_cards(small_views(), NOW)
    assert 6 == page.total
    assert [7 * MB, 60 * MB, None, None, None, None] == page.rows["data_used_bytes"].to_list()
    row = page.as_dict()["rows"][1]
    assert ("2026-10", 50 * MB, "0.1048576", "EUR") == (
        row["cycle"],
        row["data_allowance_bytes"],
        row["charge"],
        row["currency"],
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"account": "acme"}, "12356"),
        ({"account": "acme-eu"}, "23"),
        ({"plan": "us-flat"}, "4"),
        ({"pool": "fleet"}, "23"),
        ({"status": "silent"}, "6"),
        ({"tag": "meter"}, "1"),
        ({"tag": "met"}, ""),
        ({"search": "KIEL"}, "1"),
        ({"search": "north"}, "412356"),
        ({"search": "tracker"}, "5"),
        ({"search": ".*"}, ""),
        ({"over_quota": True}, "1"),
        ({"over_quota": True, "account": "acme"}, "1"),
        ({"limit": 2, "offset": 1}, "12"),
        ({"offset": 99}, ""),
    ],
)
def test_card_filters(filters: dict[str, object], expected: str) -> None:
    """Each filter narrows the list, together they are joined by AND, and search is literal."""
    assert expected == "".join(iccids(**filters))


def test_usage_is_of_the_open_cycle() -> None:
    """Once a cycle is over, in the account's own zone, its usage and quota are not shown any more."""
    november = dt.datetime(2026, 10, 31, 23, 30, tzinfo=dt.UTC)  # already November in Berlin, not in New York
    page = list_cards(small_views(), november)
    assert ["8901000000000000004"] == page.rows.filter(pl.col("cycle").is_not_null())["iccid"].to_list()
    assert 0 == list_cards(small_views(), november, over_quota=True).total


def test_bad_page_and_unknown_account_are_refused() -> None:
    """A negative limit or an unknown account is an error that says what would do."""
    with pytest.raises(UsageError, match="must be 0 or more"):
        list_cards(small_views(), NOW, limit=-1)
    with pytest.raises(UsageError, match="expected an account: one of =globex, acme, acme-eu"):
        list_cards(small_views(), NOW, account="x")


def test_card_shows_this_and_last_cycle(connection: duckdb.DuckDBPyConnection) -> None:
    """A card's days are those of the open cycle and the one before it, and its cycles are their sums."""
    card = card_detail(connection, small_views(), "8949000000000000001", NOW)
    assert ["2026-10", "2026-09"] == card.cycles.filter(pl.col("service") == "data")["cycle"].to_list()
    assert [60 * MB, 12 * MB] == card.cycles.filter(pl.col("service") == "data")["used"].to_list()
    assert card.days["used"].sum() == card.cycles["used"].sum()
    assert ["plus-10"] == card.addons["addon_id"].to_list()
    json.dumps(card.as_dict())
    text = shown(render_card(card))
    assert "0.1048576 EUR" in text
    assert "2026-10-09  data" in text


def test_card_leaves_out_older_and_later_cycles(tmp_path: Path) -> None:
    """Seen from September, October does not exist yet and August is the last cycle."""
    first = small_events()[0]
    months = [replace(first, month=dt.date(2026, month, 1), quantity=month) for month in (6, 7, 8, 9, 10)]
    september = dt.datetime(2026, 9, 15, tzinfo=dt.UTC)
    card = card_detail(history(tmp_path, rated_table(months)), small_views(), first.iccid, september)
    assert [("2026-09", 9), ("2026-08", 8)] == card.cycles.select("cycle", "used").rows()


def test_card_of_a_pool_has_the_pools_counters(connection: duckdb.DuckDBPyConnection) -> None:
    """A card in a pool is found by IMSI as well, shows the pool's counter, and its own usage by day."""
    card = card_detail(connection, small_views(), "262010000000002", NOW)
    assert [("pool", "fleet")] == card.counters.select("subject_kind", "subject").rows()
    assert [70 * MB] == card.days["used"].to_list()


def test_unknown_card_is_refused(connection: duckdb.DuckDBPyConnection) -> None:
    """A number that no card has is refused with a way to find the card."""
    with pytest.raises(
        UsageError, match="no card with ICCID, IMSI or MSISDN '123'; find one with: weir cards --search"
    ):
        card_detail(connection, small_views(), "123", NOW)


def _pool_views(used: int, size: int) -> StateViews:
    pool = {"pool_id": "p", "account_id": "a", "kind": "static", "members": 3, "service": "data", "cycle": "2026-10"}
    counter = {
        "subject_kind": "pool",
        "subject": "p",
        "account_id": "a",
        "counter": "data",
        "service": "data",
        **OCTOBER,
    }
    return views(
        pools=[pool | {"size": size, "used": used, "overage": 0, "charge_nanos": 0, "currency": "EUR"}],
        counters=[counter],
        accounts=[{"account_id": "a", "time_zone": "Europe/Berlin"}],
    )


def _gauge(used: int, size: int, as_of: dt.datetime) -> Gauge:
    (gauge,) = list_pools(_pool_views(used, size), as_of, cycle="2026-10")
    return gauge


def test_pool_runs_out_on_the_day_its_pace_says() -> None:
    """Half used after ten local days runs out at the end of the twentieth; less lasts to the end of the cycle."""
    after_ten_days = dt.datetime(2026, 10, 10, 22, tzinfo=dt.UTC)
    assert dt.date(2026, 10, 21) == _gauge(500, 1000, after_ten_days).runs_out_on
    assert dt.date(2026, 10, 20) == _gauge(501, 1000, after_ten_days).runs_out_on
    assert _gauge(100, 1000, after_ten_days).runs_out_on is None
    assert "lasts to 2026-10-31" in shown(render_pools([_gauge(100, 1000, after_ten_days)]))
    assert "runs out on 2026-10-20" in shown(render_pools([_gauge(501, 1000, after_ten_days)]))


def test_used_up_unused_and_sizeless_pools_have_no_day() -> None:
    """A pool that is used up, unused, without size or closed has no day on which it runs out."""
    assert (True, None) == (_gauge(1000, 1000, NOW).used_up, _gauge(1000, 1000, NOW).runs_out_on)
    assert (None, 0) == (_gauge(0, 1000, NOW).runs_out_on, _gauge(0, 1000, NOW).forecast)
    assert (None, False, None) == (_gauge(5, 0, NOW).runs_out_on, _gauge(5, 0, NOW).used_up, _gauge(5, 0, NOW).percent)
    closed = _gauge(500, 1000, dt.datetime(2026, 11, 2, tzinfo=dt.UTC))
    assert (False, None, None) == (closed.is_open, closed.forecast, closed.runs_out_on)


@given(st.integers(1, 10**15), st.integers(1, 10**15), st.integers(0, 30 * 86_400))
def test_runs_out_agrees_with_the_forecast(used: int, size: int, into_s: int) -> None:
    """A pool not yet used up has a last day in the cycle just when its forecast reaches its size."""
    as_of = dt.datetime(2026, 9, 30, 22, tzinfo=dt.UTC) + dt.timedelta(seconds=into_s)
    gauge = _gauge(used, size, as_of)
    assert gauge.forecast is not None
    assert (used < size <= gauge.forecast) == (gauge.runs_out_on is not None)
    if gauge.runs_out_on is not None:
        assert dt.date(2026, 10, 1) <= gauge.runs_out_on <= dt.date(2026, 10, 31)


def test_pool_shows_its_members(connection: duckdb.DuckDBPyConnection) -> None:
    """A pool's members come by usage, from history, and its gauge goes past one hundred percent."""
    pool = pool_detail(connection, small_views(), "fleet", NOW)
    assert [70 * MB, 50 * MB] == pool.top["used"].to_list()
    assert "120.00" == pool.gauges[0].percent
    assert ["8949000000000000002"] == pool_detail(connection, small_views(), "fleet", NOW, top=1).top["iccid"].to_list()
    assert "0.06291456" == json.loads(json.dumps(pool.as_dict()))["gauges"][0]["charge"]
    assert "120.00 %" in shown(render_pool(pool))


def test_unknown_pool_names_those_that_exist(connection: duckdb.DuckDBPyConnection) -> None:
    """A pool that does not exist is refused with those that do."""
    with pytest.raises(UsageError, match="found pool 'fleat'; expected a pool: one of fleet; did you mean fleet"):
        pool_detail(connection, small_views(), "fleat", NOW)


def test_pools_of_an_account() -> None:
    """Pools can be narrowed to an account and those below it; only open cycles are shown unless one is named."""
    assert ["fleet"] == [gauge.pool_id for gauge in list_pools(small_views(), NOW, account="acme")]
    assert [] == list_pools(small_views(), NOW, account="=globex")
    assert [] == list_pools(small_views(), dt.datetime(2026, 12, 1, tzinfo=dt.UTC))
    assert "no pools" in shown(render_pools([]))


def test_rejected_are_counted_and_the_newest_shown(connection: duckdb.DuckDBPyConnection) -> None:
    """Counts cover all reasons, the page only the one asked for, and the raw line is kept exactly."""
    rejected = list_rejected(connection)
    assert {"bad_value": 1, "unknown_card": 1, "malformed": 1} == dict(
        rejected.by_reason.select("reason", "records").rows()
    )
    newest = rejected.as_dict()["rows"][0]
    assert b"a\x1b[31m,\xff\x00" == base64.b64decode(newest["raw_base64"])
    assert "a\\x1b[31m,\\xff\\x00" == newest["preview"]
    only = list_rejected(connection, reason="unknown_card")
    assert (1, ["unknown_card"]) == (only.page.total, only.page.rows["reason"].to_list())
    assert 0 == list_rejected(connection, limit=0).page.rows.height
    with pytest.raises(UsageError, match="found feed 'x'; expected a feed: one of"):
        list_rejected(connection, feed="x")


def test_nothing_in_the_data_steers_the_terminal(connection: duckdb.DuckDBPyConnection) -> None:
    """Escape sequences, direction marks and markup in any value arrive as visible text."""
    small = small_views()
    text_columns = [name for name, kind in small.cards.schema.items() if kind == pl.String and name != "iccid"]
    cards = small.cards.with_columns(pl.lit(HOSTILE).alias(name) for name in text_columns).with_columns(
        tags=pl.lit([HOSTILE])
    )
    pools = small.pools.with_columns(kind=pl.lit(HOSTILE), service=pl.lit(HOSTILE), currency=pl.lit(HOSTILE))
    hostile = StateViews(
        cards=cards,
        counters=small.counters.with_columns(currency=pl.lit(HOSTILE)),
        pools=pools,
        fees=small.fees,
        accounts=small.accounts,
    )
    card = card_detail(connection, hostile, "8949000000000000001", NOW)
    status = engine_status(connection, hostile, NOW, {"data": HOSTILE, HOSTILE: [HOSTILE]})
    for renderable in (
        render_cards(list_cards(hostile, NOW)),
        render_card(card),
        render_pools(list_pools(hostile, NOW, cycle="2026-10")),
        render_pool(pool_detail(connection, hostile, "fleet", NOW)),
        render_rejected(list_rejected(connection)),
        render_status(status),
    ):
        text = shown(renderable, width=400)
        assert not UNPRINTABLE & {unicodedata.category(character) for character in text.replace("\n", "")}
    assert "\\x1b]0;x\\x07[red]\\u202e\\x9b31m" in shown(render_cards(list_cards(hostile, NOW)), width=400)


@given(st.binary(max_size=400))
def test_raw_preview_is_printable(raw: bytes) -> None:
    """Whatever bytes a line holds, its preview is printable and says where it was cut."""
    preview = raw_preview(raw)
    assert preview is not None
    assert not UNPRINTABLE & {unicodedata.category(character) for character in preview}
    assert (len(raw) > 200) == preview.endswith(f"({len(raw):,} bytes)")


@given(st.integers(-(10**27), 10**27))
def test_amounts_keep_every_nano(nanos: int) -> None:
    """Nanos become an amount without loss, far past 64 bits."""
    frame = pl.DataFrame({"n": [nanos]}, schema={"n": pl.Int128}).select(nanos_as_amount(pl.col("n")))
    assert Decimal(nanos).scaleb(-9) == frame["n"][0]


def test_status_counts_what_there_is(connection: duckdb.DuckDBPyConnection) -> None:
    """Status adds cards, pools, rated and rejected counts to the facts of the driver, all of it JSON."""
    status = engine_status(connection, small_views(), NOW, {"checkpoint": 3})
    expected = {
        "checkpoint": 3,
        "cards": 6,
        "cards_by_status": {"activated": 4, "silent": 1, "suspended": 1},
        "pools": 1,
        "open_cycles": ["2026-10"],
        "rated_records": 9,
        "adjustment_rows": 1,
        "last_received_at": "2026-10-28T12:13:00Z",
        "charge": {"EUR": "0.416105525", "USD": "0.007340032"},
        "gaps": 0,
    }
    assert expected == {name: status[name] for name in expected}
    assert "activated 4, silent 1, suspended 1" in shown(render_status(status))
    json.dumps(status)


def test_empty_directory_lists_nothing(tmp_path: Path) -> None:
    """Before anything is loaded every list says so instead of failing."""
    empty = history(tmp_path, rated_table([]))
    assert "none" in shown(render_cards(list_cards(StateViews(), NOW)))
    assert "no rejected records" in shown(render_rejected(list_rejected(empty)))
    assert "cards             0" in shown(render_status(engine_status(empty, StateViews(), NOW, {})))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_tables_fit_the_terminal(connection: duckdb.DuckDBPyConnection, width: int) -> None:
    """A narrow terminal gets fewer columns and the names of the omitted ones. Identifiers and amounts are never cut."""
    for renderable in (
        render_cards(list_cards(small_views(), NOW)),
        render_card(card_detail(connection, small_views(), "8949000000000000001", NOW)),
        render_pool(pool_detail(connection, small_views(), "fleet", NOW)),
    ):
        text = shown(renderable, width)
        assert all(len(line) <= width for line in text.splitlines())
        assert "…" not in text
    cards = shown(render_cards(list_cards(small_views(), NOW)), width)
    assert "0.007340032 USD" in cards
    assert ("no room for: Tags" in cards) == (width < 130)


def test_long_lists_of_pools_are_cut_with_a_word() -> None:
    """After fifty gauges the table says how many more there are."""
    gauges = list_pools(_pool_views(1, 2), NOW) * 53
    assert "and 3 more; all of them with --json" in shown(render_pools(gauges))
    assert "more" not in shown(render_pools(gauges[:50]))


def test_gauge_bar_and_safe_text() -> None:
    """The bar fills by tenths and stops at its end; None is a dash, numbers have separators."""
    assert "█" * 5 + "░" * 5 + " 50.00 %" == gauge_bar(_gauge(1, 2, NOW)).plain
    assert "█" * 10 + " 500.00 %" == gauge_bar(_gauge(10, 2, NOW)).plain
    assert ["–", "1,234", "2026-10-21 12:00:00 UTC"] == [safe(value).plain for value in (None, 1234, NOW)]
