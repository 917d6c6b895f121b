"""The deliverer: it takes in new actions, sends due messages, and marks a message only after it was sent.

So every message is delivered at least once. One thread owns the outbox. Each webhook and the mail server have threads
of their own, which only send. So a slow receiver delays only its own messages.
"""

from __future__ import annotations

import concurrent.futures as futures
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
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
FILE_BATCH: Final = 8192  # messages per fsync and mark
WINDOW: Final = 256  # due messages of a destination in memory
LOOK_S: Final = 1.0  # how often `follow` looks for new actions
PRUNE_S: Final = 3600.0  # how often `follow` deletes old deliveries

_LONGEST_DOUBLINGS: Final = 30


@dataclass
class Tally:
    """Counts of a run: actions taken in, messages delivered, attempts that failed for now, deliveries that are dead."""

    taken_in: int = 0
    delivered: int = 0
    failed: int = 0
    dead: int = 0
    left: dict[str, dict[DeliveryState, int]] = field(default_factory=dict)  # counts by destination at the end
    unknown: list[str] = field(default_factory=list)  # destinations with pending deliveries, but no configuration

    @property
    def pending(self) -> int:
        """The number of deliveries that are still pending at the end of the run."""
        return sum(of["pending"] for of in self.left.values())


class Deliverer:
    """Delivers the actions of one data directory; a context manager. Only one process at a time can deliver."""

    def __init__(self, data: Path, config: Outbox) -> None:
        """Open the data directory and lock its outbox.

        Raises LockedError while another process delivers, ConfigError if a secret is missing, UsageError if there is no
        data directory, StorageError if the disk fails.
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
        """True if a destination is standard output. Then nothing else may be written there."""
        return "-" in self._files.values()

    def pending(self) -> int:
        """Return the number of pending deliveries to destinations of this configuration."""
        return self._store.pending([*self._files, *self._lines])

    def run(
        self,
        *,
        follow: bool = False,
        stop: threading.Event | None = None,
        progress: Callable[[Tally], None] = lambda _: None,
    ) -> Tally:
        """Deliver everything that is committed and due. With `follow`, go on until `stop` is set.

        Without `follow`, a delivery that failed for now is left to a later run. Messages that are being sent when
        `stop` is set are still completed and marked.
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
        """Append one batch to each file; return whether there was anything to append."""
        any_due = False
        for name, path in self._files.items():
            due = self._store.due(name, _now_us(), FILE_BATCH)
            if due:
                append(path, [one.body for one in due], self._store.begun(name), partial(self._store.mark_begun, name))
                self._store.mark_delivered(name, due[0].seq, due[-1].seq, _now_us())
                self.tally.delivered += len(due)
                any_due = True
        return any_due

    def _settle(self) -> None:
        """Mark the messages whose sending has ended."""
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
    """Return the delay in seconds before the next attempt: it doubles up to the longest delay, less up to half of it.

    `chance`, in [0, 1), determines the reduction (jitter). It keeps messages that failed together from being retried
    together.
    """
    whole = min(config.longest_delay_s, config.first_delay_s * 2.0 ** min(attempts - 1, _LONGEST_DOUBLINGS))
    return whole * (1 - chance / 2)


class _Line:
    """The threads of one ordered destination, and the messages that they are to send."""

    def __init__(self, name: str, sender: Sender, config: Outbox) -> None:
        self.name = name
        self.under_way: dict[futures.Future[Sent], Due] = {}
        self._sender = sender
        self._workers = config.workers
        self._waiting: list[Due] = []
        self._fetched_s = float("-inf")
        self._after = ""  # the account whose messages were fetched last
        self._threads = futures.ThreadPoolExecutor(config.workers, thread_name_prefix=f"weir-{name}")

    def dispatch(self, store: Store) -> None:
        """Give free threads messages to send, if there are any, each account its share.

        A thread that waits for a slow receiver is lost to all others. So a quarter of the threads is kept for accounts
        that have none, and an account gets no more than its part of the threads.
        """
        self._start_some()
        now_s = time.monotonic()
        # Those that still wait here are of accounts with enough threads. Now and then look whether others came.
        if len(self.under_way) < self._workers and (not self._waiting or now_s - self._fetched_s >= LOOK_S):
            self._fetched_s = now_s
            sending = {due.seq for due in self.under_way.values()}
            due = store.due_of_each_account(self.name, _now_us(), WINDOW + len(sending), self._after)
            self._waiting = [one for one in due if one.seq not in sending]
            self._after = max((one.account for one in self._waiting), default="")
            self._start_some()

    def _start_some(self) -> None:
        threads = Counter(due.account for due in self.under_way.values())
        share = -(-self._workers // max(1, len({*threads, *(one.account for one in self._waiting)})))
        kept = self._workers // 4
        left = []
        for one in self._waiting:
            free = self._workers - len(self.under_way)
            mine = threads[one.account]
            if free and (not mine or (mine < share and free > kept)):
                self.under_way[self._threads.submit(self._sender.send, one.action_id, one.body)] = one
                threads[one.account] += 1
            else:
                left.append(one)
        self._waiting = left

    def done(self) -> list[tuple[Due, Sent]]:
        """Return the messages whose sending has ended since the last call, with the results.

        An exception of a sender counts as a failed attempt, so that one message cannot stop all others.
        """
        ended = [one for one in self.under_way if one.done()]
        return [(self.under_way.pop(one), _result(one)) for one in ended]

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._sender.close()


def _result(ended: futures.Future[Sent]) -> Sent:
    failure = ended.exception()
    return ended.result() if failure is None else Sent("again", f"{type(failure).__name__}: {failure}")


def _senders(config: Outbox) -> dict[str, Sender]:
    # Import lazily: most runs only write files, and importing the HTTP client takes a third of a second.
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
