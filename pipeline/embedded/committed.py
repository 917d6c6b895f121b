"""What a data directory has committed, to answer questions from. It needs neither the driver nor the seen keys."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pipeline.embedded.progress import Facts
from pipeline.store.directory import DataDirectory
from pipeline.store.state_files import restore_state
from rating.engine import Engine


class Committed:
    """The state as of the last checkpoint of a data directory; a context manager.

    The state has no seen keys, so its engine must fold nothing.
    """

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self.facts = facts_of(directory)
        self.engine = Engine(restore_state(directory))

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
