"""Delivering: takes in what is new, sends what is due, marks it after the effect. At least once, never lost.

One thread owns the outbox; each webhook, and the mail server, has threads of its own that only send. So a slow receiver
holds up nobody but itself.
"""

from __future__ import annotations

import concurrent.futures as futures
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pipeline.config import EMAIL, FILE, Outbox
from pipeline.outbox.appended import append
from pipeline.outbox.intake import Intake
from pipeline.outbox.routes import targets
from pipeline.outbox.sent import Sender, Sent
from pipeline.outbox.store import FOLDER, Due, Store
from pipeline.store.directory import DataDirectory
from schemas.choices import DeliveryState

ACTIONS_FILE: Final = "actions.ndjson"
FILE_BATCH: Final = 8192  # messages that one fsync and one mark are for
WINDOW: Final = 256  # due messages of a destination that are held in memory
LOOK_S: Final = 1.0  # how often a follower looks for new actions
PRUNE_S: Final = 3600.0  # and for what it may forget

_LONGEST_DOUBLINGS: Final = 30


@dataclass
class Tally:
    """What a run did: actions taken in, deliveries made, attempts that failed for now, and for good."""

    taken_in: int = 0
    delivered: int = 0
    failed: int = 0
    dead: int = 0
    left: dict[str, dict[DeliveryState, int]] = field(default_factory=dict)  # counts by destination at the end
    unknown: list[str] = field(default_factory=list)  # destinations that wait, and are configured no longer

    @property
    def pending(self) -> int:
        """Deliveries that are still to be made."""
        return sum(of["pending"] for of in self.left.values())


class Deliverer:
    """Delivers the actions of one data directory; a context manager. One process at a time can be it."""

    def __init__(self, data: Path, config: Outbox) -> None:
        """Raises LockedError while another process delivers, ConfigError where a secret is missing, UsageError where
        there is no data directory, StorageError where the disk refuses.
        """
        directory = DataDirectory.open(data, write=False)
        self._config = config
        self._files = {FILE: config.file or str(data / FOLDER / ACTIONS_FILE)}
        self._files |= {one.name: one.path for one in config.files}
        self._lines = {name: _Line(name, sender, config) for name, sender in _senders(config).items()}
        self._store = Store.open(data, deliver=True)
        for name in self._files:
            self._store.release(name)
        self._intake = Intake(
            directory, self._store, lambda action, rule: targets(config, action, rule), frozenset(self._lines)
        )
        self.tally = Tally()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._lines.values():
            line.close()
        self._store.close()

    @property
    def writes_to_standard_output(self) -> bool:
        """Whether a destination is the standard output, where nothing else must appear then."""
        return "-" in self._files.values()

    def pending(self) -> int:
        """Deliveries that this run can still make."""
        return self._store.pending([*self._files, *self._lines])

    def run(
        self,
        *,
        follow: bool = False,
        stop: threading.Event | None = None,
        progress: Callable[[Tally], None] = lambda _: None,
    ) -> Tally:
        """Deliver all that is committed and due; with `follow`, go on until `stop` is set.

        Without, what failed for now stays for a later run. What is being sent when `stop` is set is still marked.
        """
        stop = stop or threading.Event()
        looked_s = pruned_s = float("-inf")
        while not stop.is_set():
            now_s = time.monotonic()
            if now_s - looked_s >= LOOK_S and (follow or looked_s < 0):
                looked_s = now_s
                if now_s - pruned_s >= PRUNE_S:
                    pruned_s = now_s
                    self._store.prune(_now_us() - self._config.keep_days * 86_400_000_000)
                self.tally.taken_in += self._intake.take_in()
            appended = self._append(progress)
            for line in self._lines.values():
                line.dispatch(self._store)
            under_way = [one for line in self._lines.values() for one in line.under_way]
            if under_way:
                futures.wait(under_way, LOOK_S, futures.FIRST_COMPLETED)
                self._settle()
            elif not appended and not follow:
                break
            elif not appended:
                stop.wait(self._pause_s())
            progress(self.tally)
        futures.wait([one for line in self._lines.values() for one in line.under_way])
        self._settle()
        self.tally.left = self._store.counts()
        known = {*self._files, *self._lines}
        self.tally.unknown = [name for name, of in self.tally.left.items() if of["pending"] and name not in known]
        return self.tally

    def _append(self, progress: Callable[[Tally], None]) -> bool:
        """Append a batch to each file; whether there was any."""
        any_due = False
        for name, path in self._files.items():
            due = self._store.due(name, _now_us(), FILE_BATCH)
            if due:
                append(path, [one.body for one in due])
                self._store.mark_delivered(name, due[0].seq, due[-1].seq, _now_us())
                self.tally.delivered += len(due)
                any_due = True
        return any_due

    def _settle(self) -> None:
        """Mark what has been sent."""
        with self._store.marking(_now_us()) as marks:
            for line in self._lines.values():
                for due, sent in line.done():
                    attempts = due.attempts + 1
                    if sent.outcome == "delivered":
                        marks.delivered(line.name, due, sent.error)
                        self.tally.delivered += 1
                    elif sent.outcome == "dead" or attempts >= self._config.attempts:
                        marks.dead(line.name, due, sent.error or "")
                        self.tally.dead += 1
                    else:
                        wait_s = max(delay_s(attempts, self._config, random.random()), sent.after_s)
                        marks.again(due, sent.error or "", _now_us() + round(wait_s * 1e6))
                        self.tally.failed += 1

    def _pause_s(self) -> float:
        due = [at for name in self._lines if (at := self._store.next_due_us(name)) is not None]
        return min([LOOK_S, *(max(0.0, (at - _now_us()) / 1e6) for at in due)])


def delay_s(attempts: int, config: Outbox, chance: float) -> float:
    """How long to wait after so many attempts: doubling up to the longest delay, less up to a half of it.

    `chance`, in [0, 1), says how much less. It keeps senders that failed together from coming back together.
    """
    whole = min(config.longest_delay_s, config.first_delay_s * 2.0 ** min(attempts - 1, _LONGEST_DOUBLINGS))
    return whole * (1 - chance / 2)


class _Line:
    """The threads of one ordered destination, and what they have to send."""

    def __init__(self, name: str, sender: Sender, config: Outbox) -> None:
        self.name = name
        self.under_way: dict[futures.Future[Sent], Due] = {}
        self._sender = sender
        self._workers = config.workers
        self._waiting: deque[Due] = deque()
        self._threads = futures.ThreadPoolExecutor(config.workers, thread_name_prefix=f"weir-{name}")

    def dispatch(self, store: Store) -> None:
        """Give each free thread something to send."""
        if not self._waiting and len(self.under_way) < self._workers:
            sending = {due.seq for due in self.under_way.values()}
            due = store.due(self.name, _now_us(), WINDOW + len(sending))
            self._waiting.extend(one for one in due if one.seq not in sending)
        while self._waiting and len(self.under_way) < self._workers:
            one = self._waiting.popleft()
            self.under_way[self._threads.submit(self._sender.send, one.action_id, one.body)] = one

    def done(self) -> list[tuple[Due, Sent]]:
        """What has been sent since. What a sender raised counts as a failure: one message must not stop all others."""
        ended = [one for one in self.under_way if one.done()]
        return [(self.under_way.pop(one), _result(one)) for one in ended]

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._sender.close()


def _result(ended: futures.Future[Sent]) -> Sent:
    failure = ended.exception()
    return ended.result() if failure is None else Sent("again", f"{type(failure).__name__}: {failure}")


def _senders(config: Outbox) -> dict[str, Sender]:
    # Most runs write files only, and what speaks HTTP takes a third of a second to import.
    senders: dict[str, Sender] = {}
    if config.webhooks:
        from pipeline.outbox.webhook import WebhookSender

        senders |= {hook.name: WebhookSender(hook) for hook in config.webhooks}
    if config.email is not None:
        from pipeline.outbox.mail import MailSender

        senders[EMAIL] = MailSender(config.email)
    return senders


def _now_us() -> int:
    return time.time_ns() // 1000
