"""What a worker tells Prometheus about itself. Counters begin at nought with each start of a worker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.streaming.outputs import Output

_LATENCY_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters and gauges of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry, buckets=_LATENCY_S)
        self._raw = counter("weir_raw_records", "Records read from usage.raw", ["partition"])
        self._records = counter("weir_records", "Records folded, by outcome", ["outcome"])
        self._rejects = counter("weir_rejects", "Records rejected, by reason", ["reason"])
        self._firings = counter("weir_firings", "Firings of rules")
        self._actions = counter("weir_actions", "Actions that rules asked for")
        self._to_rated = histogram("weir_rated_latency_seconds", "From arrival to usage.rated")
        self._to_action = histogram("weir_action_latency_seconds", "From arrival to the topic of actions")
        self._applied = gauge("weir_journal_offset", "Last entry of the journal folded", ["partition"])
        self._landed = gauge("weir_landed_offset", "Last entry of the journal landed", ["partition"])
        self._rows = counter("weir_landed_rows", "Rated rows landed")
        self._landing = histogram("weir_landing_seconds", "Time to land a block")
        self._landing_failures = counter("weir_landing_failures", "Landings that failed and were tried again")
        self._recovery = gauge("weir_recovery_seconds", "Time that restoring took last", ["partition"])
        self._bases = counter("weir_bases", "Bases of the state written")
        self._base_bytes = counter("weir_base_bytes", "Bytes of bases written to the changelog")
        self._lag = gauge("weir_lag_messages", "Messages not read yet", ["topic", "partition"])

    def mediated(self, partition: int, records: int) -> None:
        """Records of a partition of usage.raw are in the journal."""
        self._raw.labels(partition).inc(records)

    def acted(self, output: Output) -> None:
        """The actions of an output are on their topic."""
        self._to_action.observe(max(0.0, time.time() - output.arrived_us / 1e6))

    def rated(self, output: Output) -> None:
        """All that an output holds is with the broker."""
        counts = output.counts
        self._records.labels("rated").inc(counts.rated)
        self._records.labels("duplicate").inc(counts.duplicates)
        for reason, count in counts.rejected.items():
            self._records.labels("rejected").inc(count)
            self._rejects.labels(reason).inc(count)
        self._firings.inc(counts.firings)
        self._actions.inc(counts.actions)
        self._applied.labels(output.partition).set(output.journal_offset)
        if counts.records:
            self._to_rated.observe(max(0.0, time.time() - output.arrived_us / 1e6))

    def landed(self, partition: int, outputs: Sequence[Output], seconds: float) -> None:
        """Outputs are in the history."""
        self._rows.inc(sum(output.rated.num_rows for output in outputs))
        self._landed.labels(partition).set(outputs[-1].journal_offset)
        self._landing.observe(seconds)

    def landing_failed(self, partition: int) -> None:
        """A landing has to be tried again."""
        self._landing_failures.inc()

    def recovered(self, partition: int, seconds: float) -> None:
        """The state of a partition is restored."""
        self._recovery.labels(partition).set(seconds)

    def based(self, size_bytes: int) -> None:
        """A base of the state is in the changelog."""
        self._bases.inc()
        self._base_bytes.inc(size_bytes)

    def lag(self, topic: str, partition: int, messages: int) -> None:
        """So many messages of a partition have not been read."""
        self._lag.labels(topic, partition).set(messages)
