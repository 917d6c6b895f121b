"""Where the files of a report go: names that say what they are, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.report.model import Report
from rating.errors import StorageError


def file_stem(report: Report) -> str:
    """What the report's files begin with: usage-2026-10, or usage-2026-10-acme for an account.

    An account id with characters other than letters, digits, dot, dash and underscore is written with underscores and
    a digest, so that two accounts never share a file.
    """
    if report.account is None:
        return f"usage-{report.cycle}"
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", report.account)[:60]
    if plain != report.account:
        plain = f"{plain}-{hashlib.sha256(report.account.encode()).hexdigest()[:8]}"
    return f"usage-{report.cycle}-{plain}"


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` as the block ends well and vanishes otherwise.

    Raises StorageError where the disk refuses.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write the report: {error.strerror or error}; make room there or name another place"
        ) from error
    finally:
        with suppress(OSError):  # the error that matters is the first one
            unfinished.unlink(missing_ok=True)
