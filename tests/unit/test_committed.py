"""What questions are answered from: it has all that the driver's state would answer, of new and old directories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from pipeline.embedded.committed import Committed
from pipeline.store.directory import DataDirectory
from pipeline.store.state_files import restore_state, stage_state
from rating.columnar.counters import MOST_NANOS, Charged
from rating.dedupe.seen import Seen
from rating.engine import Engine
from rating.queried_state import QUERIED_TABLES, queried_state
from rating.queries.pools import row_of_pool, uses_now
from rating.queries.schemas import VIEWS
from rating.queries.views import state_views, todays
from rating.state import State
from schemas.cards import Account, Catalogue, Pool
from schemas.plans import Fee, Price, Rate
from tests.support.fold_case import RECEIVED, cards, engine, plan, us, usage

DATA = Rate(service="data", allowance="1 KB", price=Price(model="flat", price="0.5", per="1 KB"))


def fleet() -> Engine:
    """Cards alone and in a pool, with charges and fees; one moved to another account after its first usage."""
    fee = {"fees": (Fee(name="line", amount="2.00"),)}
    started = engine(
        plan(DATA),
        plan(DATA, name="q"),
        card_rows=({"iccid": "1"}, {"iccid": "2", "pool": "p1"}, {"iccid": "3", "pool": "p1"}),
        accounts=(Account(id="a", grace_hours=72), Account(id="b", grace_hours=72)),
        pools=(Pool(id="p1", account="a", kind="dynamic", services=("data",), **fee),),
    )
    started.usage(usage(*({"iccid": one, "volume_up_bytes": 9000} for one in "123")))
    started.apply(Catalogue(cards=cards({"iccid": "1", "account": "b", "plan": "q"})), us(RECEIVED))
    started.tick(us(RECEIVED.replace(month=11, day=5)))  # closes October, whose counters are kept for two more days
    return started


def stage(path: Path, of: Engine) -> None:
    """Write the state of an engine as the next checkpoint."""
    with DataDirectory.open(path, write=True) as directory, directory.begin() as checkpoint:
        stage_state(directory, checkpoint, of, -1)
        checkpoint.commit()


def same_views(path: Path) -> None:
    """Assert that every view is that of the whole state."""
    with DataDirectory.open(path, write=False) as directory:
        whole = state_views(Engine(restore_state(directory)))
    with Committed.open(path) as committed:
        views = state_views(committed)
        for name in VIEWS:
            assert_frame_equal(getattr(views, name), getattr(whole, name))
    assert whole.pools.height
    assert whole.fees["closed"].any()


def test_questions_have_all_that_they_need(data_dir: Path) -> None:
    """All views of what is committed are those of the whole state, with further charges, tenures and closed cycles."""
    weir = fleet()
    counters = weir.state.counters
    counters.further[Charged(int(counters.keys[0]), int(counters["currency"][0]) - 1)] = 1 << 70
    stage(data_dir, weir)
    same_views(data_dir)


def test_a_directory_of_an_earlier_version_is_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters without a currency get that of their plan, and tables that are missing are empty."""
    weir = fleet()
    facts, tables = weir.snapshot()
    tables["counters"] = tables["counters"].drop_columns(["currency"])
    old = {name: table for name, table in tables.items() if name not in ("fact_history", "tenures", "further_charges")}
    old.pop("closed_cycles")

    def snapshot() -> tuple[bytes, dict[str, pa.Table]]:
        return facts, old

    with monkeypatch.context() as patched:
        patched.setattr(weir, "snapshot", snapshot)
        stage(data_dir, weir)
    with Committed.open(data_dir) as committed:
        counters = committed.state.counters
        charged = counters["charge_nanos"] != 0
        assert charged.any()
        assert (counters["currency"][charged] > 0).all()
        assert {"EUR"} == set(state_views(committed).counters["currency"])


def test_the_parts_of_a_snapshot_are_those_of_the_state() -> None:
    """What questions restore, the state restores in the same way."""
    facts, tables = fleet().snapshot()
    asked = queried_state(facts, {name: tables[name] for name in QUERIED_TABLES})
    whole = State.restore(facts, tables, Seen())
    for name in ("plan_history", "pool_history", "fact_history", "tenures"):
        assert_frame_equal(getattr(asked, name), getattr(whole, name))
    assert asked.tenures.height
    assert asked.fact_history.height
    assert asked.counters.to_table().equals(whole.counters.to_table())
    assert asked.closed.to_table().equals(whole.closed.to_table())
    assert asked.closed.to_table().num_rows


def test_a_state_that_is_replaced_meanwhile_is_read_anew(data_dir: Path) -> None:
    """A writer may commit between the manifest and the files of the state: the newer state is read."""
    weir = fleet()
    stage(data_dir, weir)
    directory = DataDirectory.open(data_dir, write=False)
    weir.tick(us(RECEIVED.replace(month=11, day=6)))
    stage(data_dir, weir)
    with Committed(directory) as committed:
        assert weir.state.offset == committed.state.offset


def test_charges_of_pools_are_exact() -> None:
    """The charges of a pool are the sums of its counters, beyond 64 bits and negative ones too."""
    weir = fleet()
    counters, pool = weir.state.counters, row_of_pool(weir, "p1")
    of_pool = np.flatnonzero(counters.subject == (pool << 1 | 1))
    assert len(of_pool)
    for own, further in ((MOST_NANOS, {0: MOST_NANOS, 1: 7}), (-1, {}), (-MOST_NANOS, {0: -(1 << 70)}), (0, {0: 5})):
        counters["charge_nanos"][of_pool] = own
        counters.further = {
            Charged(int(counters.keys[row]), one): nanos for row in of_pool.tolist() for one, nanos in further.items()
        }
        today = todays(weir, us(RECEIVED))
        uses = uses_now(weir, pool, int(today[0]))
        shown = state_views(weir, None, us(RECEIVED)).pools.filter(cycle="2026-10")
        expected = len(of_pool) * (own + sum(further.values()))
        assert [expected] == [int(nanos) for nanos in shown["charge_nanos"]] == [use.charge_nanos for use in uses]
