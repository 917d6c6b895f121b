"""The progress of an ingest, stored in each checkpoint, so that the same command can resume it."""

from __future__ import annotations

import msgspec

from pipeline.feeds.source_file import Source
from rating.units.money import format_amount


class Tally(msgspec.Struct):
    """Counts of an ingest: each record is rated, duplicate or rejected (F5)."""

    records: int = 0
    rated: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = {}
    missing_partials: int = 0
    charge_nanos: dict[str, int] = {}
    firings: int = 0  # of rules; `actions` are those that the rules requested
    actions: int = 0

    def add_rejects(self, reasons: dict[str, int]) -> None:
        """Add numbers of rejected records by reason."""
        for reason, count in reasons.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count

    def add_charges(self, charges: dict[str, int]) -> None:
        """Add charges in nanos by currency."""
        for currency, nanos in charges.items():
            self.charge_nanos[currency] = self.charge_nanos.get(currency, 0) + nanos

    def add(self, other: Tally) -> None:
        """Add another tally."""
        self.records += other.records
        self.rated += other.rated
        self.duplicate += other.duplicate
        self.missing_partials += other.missing_partials
        self.firings += other.firings
        self.actions += other.actions
        self.add_rejects(other.rejected)
        self.add_charges(other.charge_nanos)

    def to_dict(self) -> dict[str, object]:
        """Return the tally for JSON: rejected records by reason, sorted; charges by currency as decimal text."""
        return {
            "records": self.records,
            "rated": self.rated,
            "duplicate": self.duplicate,
            "rejected": dict(sorted(self.rejected.items())),
            "missing_partials": self.missing_partials,
            "charge": {currency: format_amount(nanos) for currency, nanos in sorted(self.charge_nanos.items())},
            "firings": self.firings,
            "actions": self.actions,
        }


class Progress(msgspec.Struct):
    """An ingest that is unfinished, or finished but not yet acknowledged.

    `file` is the index in `sources` of the current file. The next chunk of that file starts at `offset` (uncompressed
    bytes) and `row`. Its first `folded` usage records are folded already.
    """

    feed: str
    sources: list[Source]
    as_of_us: int
    file: int = 0
    offset: int = 0
    row: int = 0
    folded: int = 0
    tally: Tally = msgspec.field(default_factory=Tally)


class Facts(msgspec.Struct):
    """The embedded driver's data in the manifest: unacknowledged ingests, and totals of everything ever committed."""

    under_way: list[Progress] = []
    total: Tally = msgspec.field(default_factory=Tally)
    generation: int = -1  # of the catalogue tables in the state files
