"""Live state: cards and pools as the views of the whole state have them, who may see them, and who is asked."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from pipeline.config.worker import Token
from pipeline.journal.entries import Apply
from pipeline.journal.messages import messages_of
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.rate.fold import PartitionFold
from pipeline.streaming.worker import logs
from pipeline.streaming.worker.http import FORWARDED, Bearer, Desk, bearers, waits
from pipeline.streaming.worker.live import card_now, pool_now
from pipeline.streaming.worker.metrics import Metrics
from rating.engine import Engine
from rating.errors import ConfigError
from rating.queries.views import state_views
from rating.units.money import format_amount
from schemas.cards import Account, Addon, Catalogue, Pool
from schemas.plans import Price, Rate
from schemas.usage import Direction, Service
from tests.support.fold_case import NOON, RECEIVED, cards, engine, plan, us, usage
from tests.support.one_thread import work_in_this_thread

DATA = Rate(service="data", allowance="1 MB", price=Price(model="flat", price="0.5", per="1 MB"))
SMS = Rate(service="sms", allowance=10, price=Price(model="flat", price="0.01"))
ACCOUNTS = (
    Account(id="a", time_zone="America/Los_Angeles"),
    Account(id="b", parent="a"),
    Account(id="bb", parent="b"),
    Account(id="c"),
)
MB = 1 << 20


def fleet() -> Engine:
    """Cards alone, in a pool and in a device, of accounts below each other, with usage in the open cycle and before."""
    started = engine(
        plan(DATA, SMS),
        plan(DATA, name="dev"),
        card_rows=(
            {"iccid": "1", "imsi": "i1", "tags": ["x"], "custom": '{"site":"north"}', "activated_on": NOON.date()},
            {"iccid": "2", "account": "b", "pool": "p1", "status": "suspended", "status_reason": "over quota"},
            {"iccid": "3", "account": "bb", "pool": "p1"},
            {"iccid": "4", "account": "c"},
        ),
        accounts=ACCOUNTS,
        pools=(Pool(id="p1", account="b", kind="dynamic", services=("data",)),),
        addons=(
            Addon(
                id="more", iccid="1", service="data", amount="1 MB", purchased_at=NOON.replace(hour=1),
                expires_on=RECEIVED.date(),
            ),
        ),
    )  # fmt: skip
    before = {"volume_up_bytes": 9, "used_at": NOON.replace(month=9), "record_key": "before"}
    started.usage(usage(before, received=NOON.replace(day=2)))
    started.usage(
        usage(
            {"volume_down_bytes": 3 * MB},
            {"service": Service.SMS, "direction": Direction.MO, "quantity": 12},
            {"iccid": "2", "volume_up_bytes": 5 * MB},
            {"iccid": "3", "volume_up_bytes": 1 * MB},
            {"iccid": "4", "volume_up_bytes": 7},
        )
    )
    return started


@pytest.mark.parametrize("iccid", ["1", "2", "3", "4"])
def test_a_card_is_as_the_views_have_it(iccid: str) -> None:
    """Basics and counters of the open cycle are those of the whole state's views (Q2)."""
    state = fleet()
    views = state_views(state)
    found = card_now(state, iccid)
    assert found is not None
    basics = views.cards.filter(views.cards["iccid"] == iccid).row(0, named=True)
    for name in ("imsi", "account_id", "plan_id", "plan_version", "pool_id", "device_id", "status", "status_reason"):
        assert found[name] == basics[name], name
    own = views.counters.filter((views.counters["subject"] == iccid) & (views.counters["cycle"] == "2026-10"))
    names = {"used": "billable", "allowance": "allowance_size", "from_allowance": "allowance_used"}
    names |= {name: name for name in ("counter", "service", "cycle", "overage", "currency")}
    names |= {"from_addon": "addon_used"}
    expected = [{name: row[of] for name, of in names.items()} for row in own.to_dicts()]
    assert [{name: one[name] for name in names} for one in found["counters"]] == expected
    assert [one["charge"] for one in found["counters"]] == [format_amount(nanos) for nanos in own["charge_nanos"]]
    json.dumps(found)


def test_what_a_card_is_told_of_itself() -> None:
    """One card in full: the cycle before is not shown, an add-on with what is left, amounts as decimal text."""
    found = card_now(fleet(), "1")
    assert found is not None
    data, sms = found["counters"]
    assert (data["used"], data["allowance"], data["from_allowance"], data["from_addon"]) == (3 * MB, MB, MB, MB)
    assert (data["overage"], data["charge"], data["currency"]) == (MB, "0.5", "EUR")
    assert (sms["used"], sms["overage"], sms["charge"]) == (12, 2, "0.02")
    assert found["addons"][0] == {
        "addon_id": "more", "service": "data", "size": MB, "used": MB,
        "purchased_at": "2026-10-05T01:00:00Z", "expires_on": "2026-10-31",
    }  # fmt: skip
    assert (found["custom"], found["tags"], found["as_of"]) == ({"site": "north"}, ["x"], "2026-10-31T12:00:00Z")
    assert card_now(fleet(), "none") is None
    assert card_now(Engine(PartitionFold(0).engine.state), "1") is None


def test_a_share_says_how_full_the_pool_is() -> None:
    """A card in a pool sees its size and use, and what of it is its own (Q6)."""
    state = fleet()
    found = card_now(state, "3")
    assert found is not None
    (share,) = found["shares"]
    assert (share["subject_kind"], share["subject"], share["service"]) == ("pool", "p1", "data")
    assert (share["size"], share["used"], share["used_by_card"], share["percent"]) == (2 * MB, 6 * MB, MB, "300.00")


def test_a_pool_is_as_the_views_have_it() -> None:
    """Size, use, percent, overage, charge and members are those of the whole state's views (Q6)."""
    state = fleet()
    (row,) = state_views(state).pools.to_dicts()
    found = pool_now(state, "p1")
    assert found is not None
    assert {name: found[name] for name in ("pool_id", "account_id", "kind", "members")} == {
        name: row[name] for name in ("pool_id", "account_id", "kind", "members")
    }
    (gauge,) = found["services"]
    for name in ("service", "cycle", "size", "used", "percent", "overage", "currency"):
        assert gauge[name] == row[name], name
    assert gauge["charge"] == format_amount(row["charge_nanos"])
    assert pool_now(state, "p2") is None


def test_a_device_is_found_as_a_pool() -> None:
    """SIMs of a device that share are asked for by its id (A1)."""
    rate = Rate(service="data", allowance="1 MB", price=Price(model="flat", price="1", per="1 MB"))
    shared = plan(rate, name="dev")
    shared = type(shared)(id="dev", currency="EUR", versions=shared.versions, entity="device")
    state = engine(shared, card_rows=({"iccid": "1", "device": "d"}, {"iccid": "2", "device": "d"}))
    state.usage(usage({"volume_up_bytes": 3 * MB}, {"iccid": "2", "volume_up_bytes": MB}))
    found, card = pool_now(state, "d"), card_now(state, "2")
    assert found is not None
    assert card is not None
    (gauge,), (row,) = found["services"], state_views(state).pools.to_dicts()
    assert (found["kind"], found["members"], gauge["size"], gauge["used"]) == ("device", 2, 2 * MB, 4 * MB)
    assert (gauge["percent"], gauge["charge"]) == (row["percent"], format_amount(row["charge_nanos"]))
    assert [(one["subject_kind"], one["subject"], one["used_by_card"]) for one in card["shares"]] == [
        ("device", "d", MB)
    ]


@pytest.mark.parametrize(
    ("accounts", "cards", "pool"),
    [
        (("*",), "1234", True),
        (("a",), "123", True),
        (("b",), "23", True),
        (("bb",), "3", False),
        (("c", "bb"), "34", False),
        (("none",), "", False),
        ((), "", False),
    ],
)
def test_an_account_sees_its_own_and_those_below(accounts: tuple[str, ...], cards: str, pool: bool) -> None:
    """Cards and pools of an account and of all accounts below it, and of no other (Q7)."""
    state = fleet()
    assert "".join(one for one in "1234" if card_now(state, one, accounts)) == cards
    assert (pool_now(state, "p1", accounts) is not None) is pool


class Fold:
    """What the web asks of the fold of a partition."""

    def __init__(self, partition: int, state: Engine) -> None:
        self.partition, self.lock, self.ready = partition, asyncio.Lock(), asyncio.Event()
        self.fold = PartitionFold(partition, state.state)
        self.ready.set()


class Served:
    """A worker without Kafka: one that has the partition, or knows who has."""

    def __init__(self, rate: Fold | None = None, owner: str | None = None) -> None:
        self.metrics, self.registry = Metrics(), Registry(1)
        self.held, self.owner, self.reasons = rate, owner, list[str]()

    def take(self, engine: Engine) -> None:
        """Let the registry know the catalogue of an engine."""
        (content,) = messages_of(Apply(engine.state.catalogue, us(NOON)))
        assert self.registry.take(self.registry.next_offset, content) is None

    def rate(self, partition: int) -> Any:
        """The one fold, if any."""
        return self.held

    def owner_of(self, partition: int) -> str | None:
        """Whoever was named."""
        return self.owner

    def waits_for(self) -> list[str]:
        """What the test says."""
        return self.reasons

    def measure(self) -> None:
        """As a worker does."""
        self.metrics.is_ready(not self.reasons)


ALL, OF_B = Bearer(b"all-may-see", ("*",)), Bearer(b"b-may-see", ("b",))
Ask = Callable[..., Awaitable[tuple[int, dict[str, Any], Any]]]


@asynccontextmanager
async def at(worker: Served, known: tuple[Bearer, ...] = (ALL, OF_B), url: str = "http://me:1") -> AsyncIterator[Ask]:
    """Ask a worker that listens; its engine was made in this thread."""
    work_in_this_thread()
    async with ClientSession() as session, TestServer(Desk(worker, known, url, session).application()) as server:
        worker.url = str(server.make_url("")).rstrip("/")  # type: ignore[attr-defined]

        async def ask(path: str, token: str | None = None, **headers: str) -> tuple[int, dict[str, Any], Any]:
            given = headers | ({} if token is None else {"Authorization": f"Bearer {token}"})
            async with session.get(server.make_url(path), headers=given) as answer:
                return answer.status, await answer.json(), answer.headers

        yield ask


def test_tokens_decide_who_sees_what() -> None:
    """401 without a token that is known; a card of others is as one that is not there (Q7)."""

    async def main() -> None:
        async with at(Served(Fold(0, fleet()))) as ask:
            status, found, headers = await ask("/cards/2", "b-may-see")
            assert (status, found["iccid"], found["journal_partition"]) == (200, "2", 0)
            assert headers["Cache-Control"] == "no-store"
            assert (await ask("/cards/1", "all-may-see"))[0] == 200
            others = await ask("/cards/1", "b-may-see")
            none = await ask("/cards/9", "b-may-see")
            assert (others[0], none[0]) == (404, 404)
            assert others[1]["error"].replace("1", "9") == none[1]["error"]
            for token in (None, "", "wrong", "b-may-see2", "b-may-se", "\udce4"):
                status, found, headers = await ask("/cards/1", token)
                assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), token
            status, _, _ = await ask("/cards/1", Authorization="Basic b-may-see")
            assert status == 401
            assert (await ask("/cards/" + "1" * 200, "all-may-see"))[0] == 404
            assert (await ask("/else"))[0] == 404

    asyncio.run(main())


def test_without_tokens_no_state_is_shown() -> None:
    """Health, readiness and metrics answer anybody; live state says what to configure."""

    async def main() -> None:
        worker = Served(Fold(0, fleet()))
        async with at(worker, ()) as ask:
            status, found, _ = await ask("/cards/1", "anything")
            assert status == 401
            assert "[worker].tokens" in found["error"]
            assert (await ask("/health"))[:2] == (200, {"status": "alive"})
            assert (await ask("/ready"))[:2] == (200, {"ready": True, "reasons": []})
            worker.reasons = ["weir.journal[0] is being restored"]
            assert (await ask("/ready"))[:2] == (503, {"ready": False, "reasons": worker.reasons})
            assert await asyncio.to_thread(lambda: worker.metrics.registry.get_sample_value("weir_ready")) == 0

    asyncio.run(main())


def test_a_question_goes_one_step_to_the_owner() -> None:
    """Whoever is asked hands on with the token; two that think it is the other do not go in circles."""

    async def main() -> None:
        owner, other, third = Served(Fold(0, fleet())), Served(), Served()
        for one in (owner, other, third):
            one.take(fleet())
        async with at(owner) as _, at(other, url="http://other:1") as ask, at(third, url="http://third:1") as ask_third:
            other.owner = owner.url  # type: ignore[attr-defined]
            status, found, _ = await ask("/cards/2", "b-may-see")
            assert (status, found["iccid"]) == (200, "2")
            assert (await ask("/cards/1", "b-may-see"))[0] == 404
            other.owner, third.owner = third.url, other.url  # type: ignore[attr-defined]
            for asking in (ask, ask_third):
                status, found, headers = await asking("/cards/1", "all-may-see")
                assert (status, headers["Retry-After"]) == (503, "2")
            status, _, headers = await ask("/cards/1", "all-may-see", **{FORWARDED: "1"})
            assert (status, headers["Retry-After"]) == (503, "2")
            assert (
                third.metrics.registry.get_sample_value(
                    "weir_http_requests_total", {"path": "/cards/{id}", "status": "503"}
                )
                == 2
            )
            for nobody in (None, "http://other:1", "http://127.0.0.1:9"):
                other.owner = nobody
                status, _, headers = await ask("/cards/1", "all-may-see")
                assert (status, headers["Retry-After"]) == (503, "2"), nobody

    asyncio.run(main())


@pytest.mark.parametrize("headers", [{}, {FORWARDED: "1"}])
def test_nothing_tells_whether_what_others_have_exists(headers: dict[str, str]) -> None:
    """Where the partition is not, cards and pools of others are 404 as those that do not exist; one's own are 503."""

    async def main() -> None:
        worker = Served()
        worker.take(fleet())
        async with at(worker) as ask:
            for path in ("/cards/1", "/cards/9", "/pools/none"):
                assert (await ask(path, "b-may-see", **headers))[0] == 404, path
            for path in ("/cards/2", "/cards/3", "/pools/p1"):
                assert (await ask(path, "b-may-see", **headers))[0] == 503, path

    asyncio.run(main())


def test_a_partition_that_is_restored_is_not_shown() -> None:
    """State that is not complete yet is not returned. The answer says to retry."""

    async def main() -> None:
        fold = Fold(0, fleet())
        fold.ready.clear()
        async with at(Served(fold)) as ask:
            assert (await ask("/cards/1", "all-may-see"))[0] == 503
            fold.ready.set()
            assert (await ask("/cards/1", "all-may-see"))[0] == 200

    asyncio.run(main())


def test_an_answer_waits_for_the_fold() -> None:
    """A question waits until the step that is being folded is done."""

    async def main() -> None:
        fold = Fold(0, fleet())
        async with at(Served(fold)) as ask:
            await fold.lock.acquire()
            asked = asyncio.ensure_future(ask("/cards/1", "all-may-see"))
            await asyncio.sleep(0.1)
            assert not asked.done()
            fold.lock.release()
            assert (await asked)[0] == 200
            assert not fold.lock.locked()

    asyncio.run(main())


def test_secrets_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are read from where the configuration says; one that no header can carry is refused, without its text."""
    monkeypatch.setenv("T1", " first ")
    assert bearers((Token(accounts="*", token_env="T1"),)) == (Bearer(b"first", ("*",)),)
    monkeypatch.setenv("T1", "not one")
    with pytest.raises(ConfigError) as refused:
        bearers((Token(accounts=("a",), token_env="T1"),))
    assert "not one" not in str(refused.value)
    assert "[worker].tokens[0]" in str(refused.value)


def test_what_readiness_looks_at() -> None:
    """Readiness reports everything that a worker may wait for."""

    class Stage:
        ready: asyncio.Event = asyncio.Event()
        waits_for: str | None = None

    restoring, landing, other = Stage(), Stage(), object()
    landing.ready = asyncio.Event()
    landing.ready.set()
    landing.waits_for = "no space"
    stages = {"journal[0]": restoring, "rated[0]": landing, "raw[0]": other, "raw[1]": None}
    assert waits(True, False, {"raw[0]": other}, 5, 5) == []
    assert waits(False, False, {}, 0, 0) == ["has not been given partitions yet"]
    assert waits(True, True, stages, 1, 2) == [
        "partitions are being reassigned",
        "commands are folded up to 1 of 2",
        "journal[0] is being restored",
        "rated[0] does not land: no space",
        "raw[1] is being restored",
    ]


def test_logs_are_one_object_a_line() -> None:
    """Facts are fields, a traceback is one, and nothing breaks the line."""
    record = logging.makeLogRecord(
        {"name": "weir", "levelname": "INFO", "msg": "restored\n%d", "args": (3,), "partition": 1, "created": 0.0}
    )
    assert json.loads(logs.JsonLines().format(record)) == {
        "time": "1970-01-01T00:00:00.000Z", "level": "info", "logger": "weir", "message": "restored\n3", "partition": 1,
    }  # fmt: skip
    assert logs.TextLines().format(record).endswith("info     weir: restored\n3 partition=1")
    try:
        raise ValueError("gone")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = logs.JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: gone")


def test_gauges_of_partitions_that_went_are_gone() -> None:
    """A worker tells nothing of what another one has now."""
    metrics = Metrics()
    metrics.holds(0, 1, 2, 3)
    metrics.holds(1, 4, 5, 6)
    metrics.lags({("t", 0): 5})
    metrics.lags({("t", 1): 6})
    metrics.keep({1})
    value = metrics.registry.get_sample_value
    assert (value("weir_cards", {"partition": "0"}), value("weir_cards", {"partition": "1"})) == (None, 4)
    assert (value("weir_lag_messages", {"topic": "t", "partition": "0"}), value("weir_partitions")) == (None, 1)


def test_pools_and_devices_are_found_by_their_id() -> None:
    """A pool lives where its account does, a device where its cards do; what is neither is nowhere."""
    registry = Registry(8)
    names = [f"acme{number}" for number in range(12)]
    change = Catalogue(
        accounts=tuple(Account(id=name) for name in names),
        plans=(plan(DATA),),
        pools=tuple(Pool(id=f"pool of {name}", account=name, kind="dynamic") for name in names),
        cards=cards(*({"iccid": name, "account": name, "plan": "p", "device": f"d {name}"} for name in names)),
    )
    for offset, content in enumerate(messages_of(Apply(change, 0))):
        assert registry.take(offset, content) is None
    found = {name: registry.partition_of(name) for name in names}
    assert len(set(found.values())) > 1
    assert {name: registry.partition_of_pool(f"pool of {name}") for name in names} == found
    assert {name: registry.partition_of_pool(f"d {name}") for name in names} == found
    assert registry.partition_of_pool("nothing") is None
