"""Receivers that drip a byte a second: one deadline for an exchange, and threads for every account."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.config import Email, Outbox, Route
from pipeline.outbox import Store
from pipeline.outbox.message import Outgoing
from pipeline.outbox.store import Cursor
from pipeline.outbox.webhook import WebhookSender
from tests.integration.test_outbox import LOOPBACK, Got, deliver, listed, receiving, secret, to_hook
from tests.support.outbox_case import Act, commit, sim

__all__ = ["secret"]  # a fixture


@contextmanager
def dripping(begin: bytes) -> Iterator[tuple[int, list[float]]]:
    """A server on the loopback that sends `begin`, then a byte every tenth of a second, until the sender goes.

    Yields its port and a list of how long each connection lasted, in seconds.
    """
    server = socket.create_server(("127.0.0.1", 0))
    lasted: list[float] = []

    def drip(connection: socket.socket) -> None:
        since = time.monotonic()
        try:
            connection.sendall(begin)
            while True:
                connection.sendall(b"a")
                time.sleep(0.1)
        except OSError:
            lasted.append(time.monotonic() - since)
            connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], lasted
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize(
    ("begin", "state"),
    [
        (b"", "pending"),
        (b"HTTP/1.1 200 OK\r\nX-A: ", "pending"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", "delivered"),  # the status has come, and decides
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", "pending"),
    ],
)
def test_a_webhook_that_drips_ends_at_the_deadline(tmp_path: Path, begin: bytes, state: str) -> None:
    """`timeout_s` is for the whole exchange, wherever in the answer the bytes drip."""
    commit(tmp_path, [Act(1)])
    with dripping(begin) as (port, lasted):
        since = time.monotonic()
        deliver(tmp_path, to_hook(f"http://127.0.0.1:{port}/", timeout_s=1))
        took_s = time.monotonic() - since
    assert 1 <= took_s < 15  # without the deadline it would never end
    assert [state] == [one.state for one in listed(tmp_path)]
    assert len(lasted) <= 1


@pytest.mark.parametrize("begin", [b"220 ", b"220 here\r\n250-"])
def test_a_mail_server_that_drips_ends_at_the_deadline(tmp_path: Path, begin: bytes) -> None:
    """The greeting and the answers to commands are within one time."""
    commit(tmp_path, [Act(1)])
    with dripping(begin) as (port, _):
        email = Email(
            host="127.0.0.1", port=port, sender="weir@localhost", to=("a@localhost",), security="none", timeout_s=1,
            allow=LOOPBACK,
        )  # fmt: skip
        deliver(tmp_path, Outbox(email=email, routes=(Route(to=("email",)),), first_delay_s=3600))
    (one,) = listed(tmp_path)
    assert ("pending", True) == (one.state, "not done within 1 s" in (one.error or ""))


def stored(data: Path, accounts: dict[str, int]) -> list[Act]:
    """Store deliveries to the destination `hook`: so many of each account, in this order, each of its own SIM."""
    acts, messages = [], []
    for account, count in accounts.items():
        for _ in range(count):
            act = Act(len(acts), sim(len(acts)))
            acts.append(act)
            body = f'{{"iccid":"{act.iccid}","account":"{account}","parameters":{{}}}}'.encode()
            messages.append(
                Outgoing(0, act.offset, act.action_id, "hook", act.iccid, "r", "webhook", body, account=account)
            )
    commit(data, acts[:1])
    with Store.open(data, deliver=True) as store:
        store.take_in(messages, {0: Cursor(len(acts), frozenset(), "f")}, frozenset({"hook"}), 1)
    return acts


def test_an_account_with_slow_receivers_leaves_threads_to_others(tmp_path: Path) -> None:
    """While 400 messages of one account hang, those of another, behind them, are delivered."""
    stored(tmp_path, {"slow": 400, "other": 12})
    others, release = threading.Semaphore(0), threading.Event()
    hanging: list[str] = []

    def answer(got: Got) -> tuple[int, dict[str, str]]:
        if got.message["account"] == "slow":
            hanging.append(got.message["iccid"])
            release.wait()
        else:
            others.release()
        return 204, {}

    with receiving(answer) as receiver:
        config = to_hook(receiver.url, workers=8)
        thread = threading.Thread(target=deliver, args=(tmp_path, config))
        thread.start()
        try:
            for _ in range(12):
                assert others.acquire(timeout=240)
            assert 1 <= len(hanging) <= 6  # a quarter of the threads is kept
        finally:
            release.set()
            thread.join()
    assert {"delivered"} == {one.state for one in listed(tmp_path)}


def test_deliveries_of_an_older_outbox_get_their_account(tmp_path: Path) -> None:
    """A database without the column is extended when it is opened, and its messages are shared out like others."""
    stored(tmp_path, {"b": 3, "a": 2})
    with Store.open(tmp_path, deliver=True) as store:
        store._connection.execute("DROP INDEX due_of_account")
        store._connection.execute("ALTER TABLE delivery DROP COLUMN account")
        store._connection.execute("DROP TABLE begun")
    with Store.open(tmp_path, deliver=True) as store:
        due = store.due_of_each_account("hook", 10**18, 256, "")
    assert ["a", "b", "a", "b", "b"] == [one.account for one in due]


@pytest.mark.parametrize(
    ("limit", "after", "expected"), [(2, "", "ab"), (2, "b", "ca"), (4, "", "abca"), (2, "c", "ab")]
)
def test_accounts_take_turns(tmp_path: Path, limit: int, after: str, expected: str) -> None:
    """Every account comes, whatever stands before it, also if there are more than fit."""
    stored(tmp_path, {"a": 50, "c": 1, "b": 1})
    with Store.open(tmp_path, deliver=True) as store:
        assert (
            expected == "".join(one.account for one in store.due_of_each_account("hook", 10**18, limit, after))[:limit]
        )


def test_connections_to_many_hosts_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread keeps the connections to the hosts that it used last, not to all that it ever used."""

    def loopback(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("pipeline.outbox.address.socket.getaddrinfo", loopback)
    with receiving() as receiver:
        sender = WebhookSender(to_hook(None).webhooks[0])
        port = receiver.url.rpartition(":")[2]
        for number in range(40):
            body = f'{{"parameters":{{"url":"http://host-{number % 20}.example:{port}"}}}}'.encode()
            assert "delivered" == sender.send("a", body).outcome
        assert 8 == len(sender._clients)
        assert 40 == len(receiver.got)
        sender.close()
