"""Whose directory: a data directory is one with a manifest of Weir, or an empty one."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.store import manifest as manifests
from pipeline.store.folders import LOCK, is_own_lock
from pipeline.store.settling import RESTORE, STAGING
from rating.errors import StorageError, UsageError


def require_own(path: Path) -> None:
    """Require that a directory is missing, empty, or one of Weir; nothing in it changes.

    Raises UsageError if it contains anything else, StorageError if its manifest is damaged or gone.
    """
    if manifests.read(path) is not None or not path.exists():
        return
    names = {one.name for one in path.iterdir()}
    if not names:
        return
    if _is_own_lock(path / LOCK):
        # A process that was killed before its first commit leaves these; older versions also left an empty staging.
        if names <= {LOCK, STAGING, manifests.UNFINISHED} and not any((path / STAGING).glob("*")):
            return
        if any(path.glob("*/*/*")):
            raise StorageError(
                f"{path / manifests.NAME}: the manifest is gone, but files it named are there; {RESTORE}"
            )
    raise UsageError(f"{path}: the directory is not empty and is not a Weir data directory; choose another with --data")


def _is_own_lock(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return is_own_lock(descriptor)
    finally:
        os.close(descriptor)
