"""What a data directory has committed, to answer questions from. It loads nothing that only the driver needs."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pipeline.embedded.progress import Facts
from pipeline.store.directory import DataDirectory
from pipeline.store.state_files import restore_queried
from rating.apply import Compiled


class Committed:
    """The state as of the last checkpoint of a data directory, and its compiled catalogue; a context manager."""

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self.facts, self.state = directory.read(lambda _: (facts_of(directory), restore_queried(directory)))
        self.compiled = Compiled(self.state)
        self.state.counters.name_currencies(self.compiled.book.currency_of_version)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a data directory. Another process may write to it meanwhile.

        Raises StorageError or UsageError as DataDirectory.open does.
        """
        return cls(DataDirectory.open(path, write=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.directory.close()


def facts_of(directory: DataDirectory) -> Facts:
    """Return the embedded driver's data in the manifest."""
    return msgspec.convert(directory.manifest.meta, Facts) if directory.manifest.meta else Facts()
