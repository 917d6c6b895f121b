"""Prometheus metrics of a worker. Counters reset when the worker restarts.

docs/operations.md explains each metric and the alerts to set.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from pipeline.streaming.mediate.partition import Mediated
from pipeline.streaming.rate.output_messages import Output

_LATENCY_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_ANSWER_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The metrics of one worker, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, open files, start time
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=_LATENCY_S)
        self._raw = counter("weir_raw_records", "Records read from usage.raw", ["partition"])
        self._unread = counter("weir_unread_messages", "Messages of usage.raw that became one reject as a whole")
        self._quarantined = counter("weir_quarantined_messages", "Messages of usage.raw that were skipped")
        self._lost = counter("weir_raw_lost_messages", "Messages that usage.raw dropped unmediated", ["partition"])
        self._refused_ticks = counter("weir_clock_refused", "Ticks not sent, because this machine's clock is wrong")
        self._waiting = gauge("weir_waiting_seconds", "How long a stage has waited", ["topic", "partition"])
        self._records = counter("weir_records", "Records folded, by outcome", ["outcome"])
        self._rejects = counter("weir_rejects", "Records rejected, by reason", ["reason"])
        self._firings = counter("weir_firings", "Firings of rules")
        self._actions = counter("weir_actions", "Actions that rules requested")
        self._to_rated = histogram(
            "weir_rated_latency_seconds", "Seconds from arrival until the broker has the rated rows"
        )
        self._to_action = histogram(
            "weir_action_latency_seconds", "Seconds from arrival until the broker has the actions"
        )
        self._to_landed = histogram(
            "weir_landed_latency_seconds", "Seconds from arrival until the rows are in the history"
        )
        self._rows = counter("weir_landed_rows", "Rated rows landed")
        self._landing = histogram("weir_landing_seconds", "Seconds to land a block of rows")
        self._landing_failures = counter("weir_landing_failures", "Failed landings; each is retried")
        self._bases = counter("weir_bases", "Checkpoints written")
        self._base_bytes = counter("weir_base_bytes", "Bytes of checkpoints written to the changelog")
        self._lag = gauge("weir_lag_messages", "Unread messages", ["topic", "partition"])
        self._ready = gauge("weir_ready", "1 if this worker is ready, else 0")
        self._partitions = gauge("weir_partitions", "Partitions of the journal that are assigned to this worker")
        self._answers = counter("weir_http_requests", "HTTP requests", ["path", "status"])
        self._answering = Histogram(
            "weir_http_seconds",
            "Seconds to answer an HTTP request",
            ["path"],
            registry=self.registry,
            buckets=_ANSWER_S,
        )
        of_partition = partial(gauge, labelnames=["partition"])
        self._applied = of_partition("weir_journal_offset", "Offset of the last folded entry of the journal")
        self._landed = of_partition("weir_landed_offset", "Offset of the last landed entry of the journal")
        self._applied_at = of_partition(
            "weir_journal_arrival_timestamp_seconds", "Time of arrival of the last folded entry"
        )
        self._landed_at = of_partition(
            "weir_landed_arrival_timestamp_seconds", "Time of arrival of the last landed entry"
        )
        self._landing_fails = of_partition("weir_landing_failing", "1 while landing fails and is retried, else 0")
        self._recovery = of_partition("weir_recovery_seconds", "Seconds that the last restore took")
        self._based_at = of_partition(
            "weir_base_timestamp_seconds", "Time at which the newest checkpoint was written or restored"
        )
        self._base_size = of_partition("weir_base_size_bytes", "Bytes of the newest checkpoint")
        self._cards = of_partition("weir_cards", "Cards in the state")
        self._counters = of_partition("weir_counters", "Counters in the state")
        self._keys = of_partition("weir_seen_keys", "Record keys that deduplication knows")
        self._standby = of_partition(
            "weir_standby_bytes", "Bytes of checkpoints of a partition that this worker stands by for"
        )

    def mediated(self, partition: int, mediated: Mediated) -> None:
        """Count what messages of a raw partition left, once it is durable."""
        self._raw.labels(partition).inc(mediated.records)
        self._unread.inc(mediated.unread)
        self._quarantined.inc(len(mediated.unmediated))

    def lost(self, partition: int, messages: int) -> None:
        """Count messages that the topic dropped before they were mediated."""
        self._lost.labels(partition).inc(messages)

    def refused_tick(self) -> None:
        """Count a tick that was not sent because the clock of this machine is wrong."""
        self._refused_ticks.inc()

    def waits(self, seconds: Mapping[tuple[str, int], float]) -> None:
        """Set how long the stage of each topic and partition has waited; all other partitions are removed."""
        self._waiting.clear()
        for (topic, partition), waited_s in seconds.items():
            self._waiting.labels(topic, partition).set(waited_s)

    def acted(self, output: Output) -> None:
        """Observe the latency of an output whose actions the broker has confirmed."""
        self._to_action.observe(_since(output.arrived_us))

    def rated(self, output: Output) -> None:
        """Count records, firings and actions of an output that the broker has confirmed, and observe its latency."""
        counts = output.counts
        self._records.labels("rated").inc(counts.rated)
        self._records.labels("duplicate").inc(counts.duplicates)
        for reason, count in counts.rejected.items():
            self._records.labels("rejected").inc(count)
            self._rejects.labels(reason).inc(count)
        self._firings.inc(counts.firings)
        self._actions.inc(counts.actions)
        self._applied.labels(output.partition).set(output.journal_offset)
        self._applied_at.labels(output.partition).set(output.arrived_us / 1e6)
        if counts.records:
            self._to_rated.observe(_since(output.arrived_us))

    def landed(self, partition: int, outputs: Sequence[Output], seconds: float) -> None:
        """Count rows of outputs that are in the history, and observe latency and duration of the landing."""
        self._rows.inc(sum(output.rated.num_rows for output in outputs))
        self._landed.labels(partition).set(outputs[-1].journal_offset)
        self._landed_at.labels(partition).set(outputs[-1].arrived_us / 1e6)
        self._landing.observe(seconds)
        for output in outputs:
            if output.counts.records:
                self._to_landed.observe(_since(output.arrived_us))

    def landing_failed(self, partition: int) -> None:
        """Count a failed landing; it will be retried."""
        self._landing_failures.inc()
        self._landing_fails.labels(partition).set(1)

    def landing_works(self, partition: int) -> None:
        """Record that landing succeeded, in the history and, if configured, in ClickHouse."""
        self._landing_fails.labels(partition).set(0)

    def recovered(self, partition: int, seconds: float) -> None:
        """Record how long the restore of a partition took."""
        self._recovery.labels(partition).set(seconds)

    def based(self, partition: int, written_bytes: int, size_bytes: int) -> None:
        """Record a checkpoint in the changelog; `written_bytes` is the part that changed since the previous one."""
        self._bases.inc()
        self._base_bytes.inc(written_bytes)
        self.holds_base(partition, size_bytes)

    def holds_base(self, partition: int, size_bytes: int) -> None:
        """Record the size of a partition's newest checkpoint, and the current time as its time."""
        self._base_size.labels(partition).set(size_bytes)
        self._based_at.labels(partition).set(time.time())

    def lags(self, messages: Mapping[tuple[str, int], int]) -> None:
        """Set the number of unread messages of each topic and partition; all other partitions are removed."""
        self._lag.clear()
        for (topic, partition), count in messages.items():
            self._lag.labels(topic, partition).set(count)

    def holds(self, partition: int, cards: int, counters: int, keys: int) -> None:
        """Record the size of the state of a partition."""
        self._cards.labels(partition).set(cards)
        self._counters.labels(partition).set(counters)
        self._keys.labels(partition).set(keys)

    def stands_by(self, held_bytes: Mapping[int, int]) -> None:
        """Set the bytes of checkpoint segments of each standby partition; all others are removed."""
        self._standby.clear()
        for partition, count in held_bytes.items():
            self._standby.labels(partition).set(count)

    def keep(self, partitions: Collection[int]) -> None:
        """Record which journal partitions this worker has, and remove the metrics of all others."""
        kept = {str(partition) for partition in partitions}
        self._partitions.set(len(kept))
        for gauge in (
            self._applied, self._landed, self._applied_at, self._landed_at, self._landing_fails, self._recovery,
            self._based_at, self._base_size, self._cards, self._counters, self._keys,
        ):  # fmt: skip
            told = {sample.labels["partition"] for metric in gauge.collect() for sample in metric.samples}
            for partition in told - kept:
                gauge.remove(partition)

    def is_ready(self, ready: bool) -> None:
        """Record whether the worker is ready."""
        self._ready.set(ready)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an HTTP request and observe the time it took."""
        self._answers.labels(path, status).inc()
        self._answering.labels(path).observe(seconds)


def _since(arrived_us: int) -> float:
    return max(0.0, time.time() - arrived_us / 1e6)
