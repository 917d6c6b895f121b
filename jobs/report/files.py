"""Report files: naming, and atomic writes."""

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
    """Return the common prefix of the report's files: usage-2026-10, or usage-2026-10-acme for an account.

    If an account id is longer than 60 characters, or has characters other than letters, digits, dot, dash and
    underscore, it is shortened, these characters become underscores, and a digest of the id follows. So two accounts
    never share a file.
    """
    if report.account is None:
        return f"usage-{report.cycle}"
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", report.account)[:60]
    if plain != report.account:
        plain = f"{plain}-{hashlib.sha256(report.account.encode()).hexdigest()[:8]}"
    return f"usage-{report.cycle}-{plain}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. It is renamed to `path` if the block succeeds, and deleted otherwise.

    Creates the folder if it is missing. Turns an OSError of the block into StorageError.
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
        with suppress(OSError):  # An error of the block must not be replaced by this one.
            unfinished.unlink(missing_ok=True)
