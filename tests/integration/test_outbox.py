"""Delivery to real receivers: a web server, a mail server, a file; refusals, repeats, order, and kill -9."""

from __future__ import annotations

import base64
import hmac
import http.server
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from pipeline.config import Email, Outbox, Route, WebhookDestination
from pipeline.outbox import Deliverer, Delivery, Store, Tally
from pipeline.outbox.signature import message_id
from pipeline.outbox.webhook import retry_after_s
from tests.support.outbox_case import Act, commit, lines, sim
from tests.support.progress import communicated, completed, wait_until
from tests.support.weir_command import WEIR, succeeded

KEY = b"k" * 32
LOOPBACK = ("127.0.0.0/8",)
# What `weir outbox deliver` does, without the time that all the other commands take to be imported.
DELIVER = """
import sys
from pathlib import Path
from pipeline.config import load_config
from pipeline.outbox import Deliverer
folder = Path(sys.argv[1])
with Deliverer(folder / "data", load_config(folder / "weir.toml").outbox) as deliverer:
    deliverer.run()
"""


@dataclass(frozen=True)
class Got:
    """A request that a receiver got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        """The message."""
        found: dict[str, Any] = json.loads(self.body)
        return found


Answer = tuple[int, dict[str, str]]


@dataclass
class Receiver:
    """A web server on the loopback; `answer` decides what each request gets."""

    answer: Callable[[Got], Answer]
    got: list[Got] = field(default_factory=list)
    url: str = ""


@contextmanager
def receiving(answer: Callable[[Got], Answer] = lambda _: (204, {})) -> Iterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver(answer)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True  # the sender was killed on the way
                return
            got = Got(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            receiver.got.append(got)
            status, headers = receiver.answer(got)
            try:
                self.send_response(status)
                for name, value in {"content-length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
            except OSError:
                self.close_connection = True  # the sender is gone

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # senders are killed here
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/in"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret that messages are signed with."""
    monkeypatch.setenv("WEIR_TEST_SECRET", "whsec_" + base64.b64encode(KEY).decode())


def to_hook(url: str | None, *, allow: tuple[str, ...] = LOOPBACK, timeout_s: int = 300, **changes: Any) -> Outbox:
    """Everything goes to one webhook; failures are tried again after half a second to a second."""
    hook = WebhookDestination(name="hook", url=url, secret_env="WEIR_TEST_SECRET", allow=allow, timeout_s=timeout_s)
    settings: dict[str, Any] = {"first_delay_s": 1, "longest_delay_s": 1, "workers": 4} | changes
    return Outbox(webhooks=(hook,), routes=(Route(to=("hook",)),), **settings)


def deliver(data: Path, config: Outbox) -> Tally:
    """One run."""
    with Deliverer(data, config) as deliverer:
        return deliverer.run()


def deliver_all(data: Path, config: Outbox) -> Tally:
    """Follow until nothing is pending."""
    stop = threading.Event()
    with Deliverer(data, config) as deliverer:

        def progress(tally: Tally) -> None:
            if not deliverer.pending():
                stop.set()

        return deliverer.run(follow=True, stop=stop, progress=progress)


def listed(data: Path) -> list[Delivery]:
    """All deliveries, oldest first."""
    with Store.open(data, deliver=False) as store:
        return store.list(None, 10_000, 0)[1][::-1]


def test_a_webhook_gets_a_signed_message(tmp_path: Path) -> None:
    """The body is the message, and the signature is that of Standard Webhooks over id, time and body."""
    act, began_s = Act(1, parameters={"reason": "hard_cut"}), int(time.time())
    commit(tmp_path, [act])
    with receiving() as receiver:
        assert 1 == deliver(tmp_path, to_hook(receiver.url)).delivered
        assert 0 == deliver(tmp_path, to_hook(receiver.url)).delivered
    (got,) = receiver.got
    assert (act.action_id, "suspend", "hard_cut") == (
        got.message["id"], got.message["action"], got.message["parameters"]["reason"],
    )  # fmt: skip
    name, timestamp = got.headers["webhook-id"], got.headers["webhook-timestamp"]
    assert message_id(act.action_id) == name
    assert "." not in name
    assert began_s <= int(timestamp) <= time.time()
    expected = hmac.digest(KEY, f"{name}.{timestamp}.".encode() + got.body, "sha256")
    assert "v1," + base64.b64encode(expected).decode() == got.headers["webhook-signature"]


def test_two_secrets_sign_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a secret is being changed, both the old and the new one verify."""
    monkeypatch.setenv("WEIR_TEST_SECRET", "old new")
    commit(tmp_path, [Act(1)])
    with receiving() as receiver:
        deliver(tmp_path, to_hook(receiver.url))
    (got,) = receiver.got
    content = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    both = [base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in (b"old", b"new")]
    assert [f"v1,{one}" for one in both] == got.headers["webhook-signature"].split()


def test_a_failure_is_tried_again_with_the_same_id(tmp_path: Path) -> None:
    """500, then success: the second attempt comes after the delay, in a later run or a following one."""
    commit(tmp_path, [Act(1)])
    answers: Iterator[Answer] = iter([(500, {}), (204, {})])
    with receiving(lambda _: next(answers)) as receiver:
        assert (0, 1, 1) == ((first := deliver(tmp_path, to_hook(receiver.url))).delivered, first.failed, first.pending)
        (waiting,) = listed(tmp_path)
        assert waiting.next_at_us > waiting.changed_at_us
        assert "answered 500" in (waiting.error or "")
        assert 0 == deliver(tmp_path, to_hook(receiver.url)).failed  # not due yet
        assert 1 == len(receiver.got)
        assert 1 == deliver_all(tmp_path, to_hook(receiver.url)).delivered
    assert 1 == len({got.headers["webhook-id"] for got in receiver.got})
    assert 1 == len({got.body for got in receiver.got})


@pytest.mark.parametrize("header", ["100", "date"])
def test_retry_after_is_heeded(tmp_path: Path, header: str) -> None:
    """429 with Retry-After, in seconds or as a date: nothing before that moment."""
    commit(tmp_path, [Act(1)])
    value = formatdate(time.time() + 100, usegmt=True) if header == "date" else header
    with receiving(lambda _: (429, {"retry-after": value})) as receiver:
        deliver(tmp_path, to_hook(receiver.url))
    (waiting,) = listed(tmp_path)
    assert "pending" == waiting.state
    assert 90 < (waiting.next_at_us - waiting.changed_at_us) / 1e6 <= 101
    assert [0.0, 0.0, 86_400.0] == [retry_after_s(said, 0.0) for said in (None, "soon", "999999999")]


@pytest.mark.parametrize(("status", "state"), [(400, "dead"), (404, "dead"), (410, "dead"), (408, "pending")])
def test_what_the_receiver_will_never_take_is_dead_at_once(tmp_path: Path, status: int, state: str) -> None:
    """4xx is a dead letter, but for those that ask for a repeat."""
    commit(tmp_path, [Act(1)])
    with receiving(lambda _: (status, {})) as receiver:
        deliver(tmp_path, to_hook(receiver.url))
    (one,) = listed(tmp_path)
    assert (state, f"answered {status}") == (one.state, (one.error or "")[:12])


def test_redirects_are_refused(tmp_path: Path) -> None:
    """A redirect is a dead letter; nobody is asked at its target."""
    commit(tmp_path, [Act(1)])
    with receiving() as target, receiving(lambda _: (307, {"location": target.url})) as receiver:
        deliver(tmp_path, to_hook(receiver.url))
    (one,) = listed(tmp_path)
    assert ("dead", 1, []) == (one.state, len(receiver.got), target.got)
    assert "redirects are not followed" in (one.error or "")


def test_a_slow_receiver_is_given_up(tmp_path: Path) -> None:
    """Without an answer within the time-out the action is tried again later, and others go on meanwhile."""
    commit(tmp_path, [Act(1, sim(1)), Act(2, sim(2))])
    release = threading.Event()

    def answer(got: Got) -> Answer:
        if got.message["iccid"] == sim(1):
            release.wait()
        return 204, {}

    with receiving(answer) as receiver:
        try:
            tally = deliver(tmp_path, to_hook(receiver.url, timeout_s=3))
        finally:
            release.set()
    assert (1, 1) == (tally.delivered, tally.failed)
    assert ["pending", "delivered"] == [one.state for one in listed(tmp_path)]
    assert "no answer within 3 s" in (listed(tmp_path)[0].error or "")


def test_nobody_listening_is_tried_again(tmp_path: Path) -> None:
    """A refused connection is a failure for now."""
    commit(tmp_path, [Act(1)])
    with receiving() as receiver:
        url = receiver.url
    assert 1 == deliver(tmp_path, to_hook(url)).failed
    assert "cannot connect" in (listed(tmp_path)[0].error or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433"])
def test_private_addresses_are_refused(tmp_path: Path, host: str) -> None:
    """Nothing reaches a listener on the loopback unless its network is allowed, however it is named."""
    commit(tmp_path, [Act(1)])
    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", host)
        assert 1 == deliver(tmp_path, to_hook(url, allow=())).dead
        assert [] == receiver.got
    assert "no public address" in (listed(tmp_path)[0].error or "")


def test_a_webhook_action_goes_to_the_url_it_names(tmp_path: Path) -> None:
    """A destination without a URL takes that of the action; an action without one is a dead letter."""
    with receiving() as receiver:
        url = receiver.url.replace("/in", "/named")
        commit(tmp_path, [Act(1, action="webhook", parameters={"url": url, "text": "{iccid}"}), Act(2, sim(2))])
        deliver(tmp_path, to_hook(None))
    (got,) = receiver.got
    assert ("/named", sim(1)) == (got.path, got.message["parameters"]["text"])
    assert ["delivered", "dead"] == [one.state for one in listed(tmp_path)]


def test_a_sims_actions_arrive_in_order_and_others_go_on(tmp_path: Path) -> None:
    """While one SIM's first action fails its later ones wait, and those of others arrive; then it catches up."""
    acts = [Act(offset, sim(offset % 5)) for offset in range(60)]
    commit(tmp_path, acts)
    chance = random.Random(5)
    failures = Counter[str]()

    def answer(got: Got) -> Answer:
        name = got.message["iccid"]
        time.sleep(chance.random() / 500)
        if name == sim(3) and failures[name] < 2:
            failures[name] += 1
            return 503, {}
        return 204, {}

    with receiving(answer) as receiver:
        first = deliver(tmp_path, to_hook(receiver.url))
        assert (48, 1, 12) == (first.delivered, first.failed, first.pending)
        assert 12 == deliver_all(tmp_path, to_hook(receiver.url)).delivered
    for number in range(5):
        arrived = list(dict.fromkeys(g.message["id"] for g in receiver.got if g.message["iccid"] == sim(number)))
        assert [one.action_id for one in acts if one.iccid == sim(number)] == arrived


def test_dead_letters_are_listed_and_retried(tmp_path: Path) -> None:
    """After the limit of attempts an action is dead and lets the next one through; `weir` lists and retries it."""
    acts = [Act(1), Act(2)]
    commit(tmp_path, acts)
    healthy = threading.Event()

    def answer(got: Got) -> Answer:
        return (204 if healthy.is_set() or got.message["id"] != acts[0].action_id else 500), {}

    with receiving(answer) as receiver:
        config = to_hook(receiver.url, attempts=2)
        tally = deliver_all(tmp_path, config)
        assert (1, 1, 1) == (tally.delivered, tally.failed, tally.dead)
        dead = json.loads(succeeded("--data", tmp_path, "outbox", "list", "--state", "dead", "--json"))
        assert [(acts[0].action_id, 2)] == [(row["action_id"], row["attempts"]) for row in dead["rows"]]
        assert {"retried": 1} == json.loads(
            succeeded("--data", tmp_path, "outbox", "retry", acts[0].action_id, "--json")
        )
        healthy.set()
        assert 1 == deliver(tmp_path, config).delivered
    assert "0 of 0 shown" in succeeded("--data", tmp_path, "outbox", "list", "--state", "dead")


def test_actions_to_standard_output(tmp_path: Path) -> None:
    """With "-" standard output has messages and nothing else; the summary goes to standard error."""
    acts = [Act(1), Act(2)]
    commit(tmp_path / "data", acts)
    (tmp_path / "weir.toml").write_text('[outbox]\nfile = "-"\n')
    command = [WEIR, "--config", str(tmp_path / "weir.toml"), "--data", str(tmp_path / "data"), "outbox", "deliver"]
    done = completed(command, text=False)
    assert done.returncode == 0, done.stderr.decode()
    assert [one.action_id for one in acts] == [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert b"2 delivered" in done.stderr


def test_following_until_stopped(tmp_path: Path) -> None:
    """`--follow` delivers what is committed while it runs, and stops gracefully on a signal."""
    commit(tmp_path, [Act(1)])
    command = [WEIR, "--data", str(tmp_path), "outbox", "deliver", "--follow", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        file = tmp_path / "outbox" / "actions.ndjson"
        try:
            wait_until(lambda: len(lines(file)) == 1, "the first action", runs=[process], logs=[file])
            commit(tmp_path, [Act(2)])
            wait_until(lambda: len(lines(file)) == 2, "the second action", runs=[process], logs=[file])
        finally:
            process.terminate()
            output, errors = communicated(process)
    assert process.returncode == 0, errors.decode()
    assert 2 == json.loads(output)["delivered"]


def test_killed_between_effect_and_mark(tmp_path: Path) -> None:
    """A receiver kills the sender when it has a message and has not answered yet: nothing is lost, ids repeat."""
    acts = [Act(offset, sim(offset % 7)) for offset in range(150)]
    commit(tmp_path / "data", acts)
    chance = random.Random(11)
    process: list[subprocess.Popen[bytes]] = []
    countdown = [0]
    guard = threading.Lock()

    def answer(_: Got) -> Answer:
        with guard:
            countdown[0] -= 1
            if countdown[0] == 0:
                os.kill(process[0].pid, signal.SIGKILL)
                process[0].wait()
        return 204, {}

    with receiving(answer) as receiver:
        (tmp_path / "weir.toml").write_text(
            f'[outbox]\nworkers = 3\n[[outbox.webhooks]]\nname = "hook"\nurl = "{receiver.url}"\n'
            'secret_env = "WEIR_TEST_SECRET"\nallow = ["127.0.0.0/8"]\n[[outbox.routes]]\nto = ["hook"]\n'
        )
        kills = 0
        while True:
            with guard:
                countdown[0] = chance.randint(1, 30) if kills < 6 else 0
            process[:] = [start(tmp_path)]
            communicated(process[0])
            if process[0].returncode == 0:
                break
            assert -signal.SIGKILL == process[0].returncode
            kills += 1
    assert kills >= 3
    arrived = Counter(got.message["id"] for got in receiver.got)
    assert {one.action_id for one in acts} == set(arrived)
    assert sum(arrived.values()) > len(acts)
    for got in receiver.got:
        assert message_id(got.message["id"]) == got.headers["webhook-id"]
    for number in range(7):
        first = list(dict.fromkeys(g.message["id"] for g in receiver.got if g.message["iccid"] == sim(number)))
        assert [one.action_id for one in acts if one.iccid == sim(number)] == first


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start to deliver what is in `folder`/data by `folder`/weir.toml."""
    command = [sys.executable, "-c", DELIVER, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_at_any_moment_while_writing_a_file(tmp_path: Path) -> None:
    """Killed while it takes in, appends or marks: every action is a whole line in the end, in order, at least once."""
    acts = [Act(offset, sim(offset % 50)) for offset in range(20_000)]
    commit(tmp_path / "data", acts, group_rows=3000)
    (tmp_path / "weir.toml").write_text("[outbox]\n")
    chance = random.Random(3)
    outbox = tmp_path / "data" / "outbox"
    kills = 0
    for _ in range(6):
        process = start(tmp_path)
        wait_until(
            lambda process=process: process.poll() is not None or is_open(outbox, process.pid),  # type: ignore[misc]
            "the lock of the outbox",
            pause_s=0.01,
        )
        time.sleep(chance.uniform(0, 0.6))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3
    process = start(tmp_path)
    assert b"" == communicated(process)[1]
    found = [line["id"] for line in lines(outbox / "actions.ndjson")]
    assert [one.action_id for one in acts] == list(dict.fromkeys(found))


def is_open(outbox: Path, pid: int) -> bool:
    """Whether the process has the outbox."""
    return (outbox / "lock").exists() and (outbox / "lock").read_text().strip() == str(pid)


class Mailbox:
    """Handler of the mail server: it stores messages, or gives the answers in `answers`."""

    def __init__(self) -> None:
        self.got: list[tuple[list[str], Message]] = []
        self.answers: list[str] = []
        self.refused: dict[str, str] = {}

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Answer for one addressee."""
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a mail."""
        answer = self.answers.pop(0) if self.answers else "250 OK"
        if answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.got.append((list(envelope.rcpt_tos), message_from_bytes(envelope.content)))
        return answer


@contextmanager
def mail_server(**options: Any) -> Iterator[tuple[Mailbox, int]]:
    """A mail server on the loopback: its mailbox and port."""
    box = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]  # The controller needs a fixed port.
    controller = Controller(box, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield box, port
    finally:
        controller.stop()


def to_mail(port: int, **changes: Any) -> Outbox:
    """Everything goes to the mail server."""
    settings: dict[str, Any] = {"host": "127.0.0.1", "security": "none", "allow": LOOPBACK} | changes
    email = Email(sender="weir@example.com", port=port, **settings)
    return Outbox(email=email, routes=(Route(to=("email",)),), first_delay_s=1, longest_delay_s=1)


NOTIFY = {"by": ["email"], "to": ["a@example.com", "+4915112345"], "subject": "{iccid}\nBcc: x@y", "text": "{value} ü"}


def test_a_notify_becomes_a_mail(tmp_path: Path) -> None:
    """Addressees, subject and text are the action's; a subject adds no header; the message is attached."""
    act = Act(1, action="notify", parameters=NOTIFY)
    commit(tmp_path, [act])
    with mail_server() as (box, port):
        assert 1 == deliver(tmp_path, to_mail(port)).delivered
    ((to, mail),) = box.got
    assert ["a@example.com"] == to
    assert (f"{sim(1)} Bcc: x@y", None) == (mail["subject"], mail["bcc"])
    assert f"<{message_id(act.action_id)}@example.com>" == mail["message-id"]
    text, attached = (part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart())
    assert isinstance(text, bytes)
    assert isinstance(attached, bytes)
    assert "1100 ü" == text.decode().strip()
    assert act.action_id == json.loads(attached)["id"]


def test_a_repeated_mail_is_recognisable(tmp_path: Path) -> None:
    """451 is tried again; the mail of the second attempt has the Message-ID that the first had."""
    act = Act(1, action="notify", parameters=NOTIFY)
    commit(tmp_path, [act])
    with mail_server() as (box, port):
        box.answers = ["451 later"]
        assert 1 == deliver(tmp_path, to_mail(port)).failed
        assert 1 == deliver_all(tmp_path, to_mail(port)).delivered
    assert [f"<{message_id(act.action_id)}@example.com>"] == [mail["message-id"] for _, mail in box.got]


def test_mail_that_is_refused(tmp_path: Path) -> None:
    """A refused mail or addressee is dead; one of several refused for good is noted; without an address it is dead."""
    several = NOTIFY | {"to": ["a@example.com", "gone@example.com"]}
    acts = [
        Act(1, sim(1), "notify", NOTIFY | {"to": ["gone@example.com"]}),
        Act(2, sim(2), "notify", several),
        Act(3, sim(3), "notify", {"by": ["email"]}),
    ]
    commit(tmp_path, acts)
    with mail_server() as (box, port):
        box.refused = {"gone@example.com": "550 no such user"}
        deliver(tmp_path, to_mail(port))
    found = listed(tmp_path)
    assert ["dead", "delivered", "dead"] == [one.state for one in found]
    assert all("550" in (one.error or "") for one in found[:2])
    assert "no mail address" in (found[2].error or "")
    assert [["a@example.com"]] == [to for to, _ in box.got]


def test_other_actions_go_to_the_configured_addresses(tmp_path: Path) -> None:
    """An action that is no notify is a mail with the message as its text."""
    commit(tmp_path, [Act(1)])
    with mail_server() as (box, port):
        deliver(tmp_path, to_mail(port, to=("ops@example.com",)))
    ((to, mail),) = box.got
    assert (["ops@example.com"], f"quota: suspend of SIM {sim(1)}") == (to, mail["subject"])


def test_a_mail_server_on_a_private_address_is_refused(tmp_path: Path) -> None:
    """Its network has to be allowed too."""
    commit(tmp_path, [Act(1, action="notify", parameters=NOTIFY)])
    with mail_server() as (box, port):
        assert 1 == deliver(tmp_path, to_mail(port, allow=())).dead
    assert [] == box.got


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own for `localhost`, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *words.split(), "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("trusted", [True, False])
def test_starttls_checks_the_name(tmp_path: Path, certificate: Path, trusted: bool) -> None:
    """With STARTTLS mail goes to a server whose certificate is trusted and has its name; to others nothing does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    commit(tmp_path, [Act(1, action="notify", parameters=NOTIFY)])
    ca = str(certificate / "cert.pem") if trusted else None
    with mail_server(tls_context=context, require_starttls=True) as (box, port):
        config = to_mail(port, host="localhost", security="starttls", ca_file=ca, allow=("127.0.0.1", "::1"))
        tally = deliver(tmp_path, config)
    assert (1, 0, 1) == (tally.delivered, tally.failed, len(box.got)) if trusted else (0, 1, 0)
    assert trusted or "CERTIFICATE_VERIFY_FAILED" in (listed(tmp_path)[0].error or "")
