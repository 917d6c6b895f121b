"""Digests of committed files, which find bits that changed on the disk.

The digest of a file is XXH3-128 over the XXH3-128 of each MiB of it, so that a file of any size is hashed in bounded
memory. XXH3 from polars-hash hashes 6.7 GiB a second here, SHA-256 of the standard library 1.3 (docs/decisions/0140).
It finds accidents, not forgers: a user who may write the file may write the manifest too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import polars_hash as plh
import pyarrow as pa

ALGORITHM: Final = "xxh3-128-mib"
BLOCK_BYTES: Final = 1 << 20
_READ_BYTES: Final = 4 * BLOCK_BYTES


def digest_of(content: bytes) -> str:
    """Return the digest of these bytes, as `file_digest` returns it for a file."""
    return _named(_hashes(memoryview(content)))


def file_digest(path: Path) -> tuple[str, int]:
    """Return the digest of a file and its size in bytes. Raises OSError if it cannot be read or is a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        return descriptor_digest(descriptor)
    finally:
        os.close(descriptor)


def descriptor_digest(descriptor: int) -> tuple[str, int]:
    """Return the digest and the size in bytes of the file with this descriptor, from its beginning."""
    hashes, size_bytes = [], 0
    buffer = bytearray(min(_READ_BYTES, max(os.fstat(descriptor).st_size, 1)))
    while True:
        filled = 0
        # Only the last piece may be shorter than the buffer, or blocks would begin elsewhere.
        while filled < len(buffer):
            count = os.preadv(descriptor, [memoryview(buffer)[filled:]], size_bytes + filled)
            if not count:
                break
            filled += count
        hashes.append(_hashes(memoryview(buffer)[:filled]))
        size_bytes += filled
        if filled < len(buffer):
            return _named(b"".join(hashes)), size_bytes


def is_known(digest: str) -> bool:
    """Return whether this version of weir can compute digests of this algorithm."""
    return digest.startswith(f"{ALGORITHM}:")


def _named(hashes: bytes) -> str:
    return f"{ALGORITHM}:{_xxh3(np.array([0, len(hashes)], np.int64), memoryview(hashes))[0].hex()}"


def _hashes(content: memoryview) -> bytes:
    """Return the hashes of the blocks of the content, 16 bytes each; nothing for no content."""
    if not content:
        return b""
    ends = np.arange(0, len(content) + BLOCK_BYTES, BLOCK_BYTES, dtype=np.int64)
    ends[-1] = len(content)
    return b"".join(_xxh3(ends, content))


def _xxh3(ends: np.ndarray[tuple[int], np.dtype[np.int64]], content: memoryview) -> list[bytes]:
    blocks = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends) - 1, [None, pa.py_buffer(ends), pa.py_buffer(content)]
    )
    frame = pl.DataFrame({"block": pl.Series(pl.from_arrow(blocks))})
    found = frame.select(plh.col("block").nchash.xxh3_128()).to_series().to_list()
    return [one.to_bytes(16, "big") for one in found]
