"""How far an ingest has come: what a checkpoint keeps of it, so that the same command goes on where it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from rating.errors import SourceError
from rating.units.money import format_amount

_SAMPLE_BYTES = 1 << 20


class Source(msgspec.Struct, frozen=True):
    """A file to ingest: its name as rows will show it, and a fingerprint of its size, beginning and end."""

    path: str
    name: str
    size_bytes: int
    fingerprint: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """Look at the file. Raises SourceError where it cannot be read."""
        try:
            size_bytes = path.stat().st_size
            with path.open("rb") as file:
                sample = file.read(_SAMPLE_BYTES)
                file.seek(max(0, size_bytes - _SAMPLE_BYTES))
                sample += file.read(_SAMPLE_BYTES)
        except IsADirectoryError as error:
            raise SourceError(f"{path}: found a directory; expected a file of usage records") from error
        except OSError as error:
            raise SourceError(
                f"{path}: cannot be read: {error.strerror}; check the path and its permissions"
            ) from error
        digest = hashlib.blake2b(sample + size_bytes.to_bytes(8, "big"), digest_size=16)
        return cls(str(path.absolute()), path.name, size_bytes, digest.hexdigest())


class Tally(msgspec.Struct):
    """What became of the records of an ingest: each is rated, duplicate or rejected (F5)."""

    records: int = 0
    rated: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = {}
    missing_partials: int = 0
    charge_nanos: dict[str, int] = {}
    firings: int = 0  # of rules, and the actions that they ask for
    actions: int = 0

    def add_rejects(self, reasons: dict[str, int]) -> None:
        """Count rejected records by reason."""
        for reason, count in reasons.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count

    def add_charges(self, charges: dict[str, int]) -> None:
        """Add nanos by currency."""
        for currency, nanos in charges.items():
            self.charge_nanos[currency] = self.charge_nanos.get(currency, 0) + nanos

    def add(self, other: Tally) -> None:
        """Add all of another tally."""
        self.records += other.records
        self.rated += other.rated
        self.duplicate += other.duplicate
        self.missing_partials += other.missing_partials
        self.firings += other.firings
        self.actions += other.actions
        self.add_rejects(other.rejected)
        self.add_charges(other.charge_nanos)

    def to_dict(self) -> dict[str, object]:
        """For JSON: rejected by reason in order of name, charge by currency as decimal text."""
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
    """An ingest under way, or ended and not yet told. `file` is the place in `sources` of the file being read.

    The next chunk of it starts at `offset` (bytes, uncompressed) and `row`; of that chunk `folded` usage records are
    done already.
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
    """What the embedded driver keeps in the manifest: ingests under way, and totals of all that was ever committed."""

    under_way: list[Progress] = []
    total: Tally = msgspec.field(default_factory=Tally)
    generation: int = -1  # of the catalogue tables that are in the state files
