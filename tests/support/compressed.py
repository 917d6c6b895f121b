"""zstd data for tests: frames from Arrow, frames without content, and a frame from the `zstd` command."""

from __future__ import annotations

import struct

import pyarrow as pa


def zstd_frame(content: bytes) -> bytes:
    """Return a frame whose header has the size of its content."""
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def streamed_zstd_frame(content: bytes) -> bytes:
    """Return a frame whose header lacks the size of its content, as programs write that compress a stream."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def skippable_zstd_frame(content: bytes, kind: int = 0) -> bytes:
    """Return a skippable frame, whose bytes are not content. `kind` is 0 to 15."""
    return struct.pack("<II", 0x184D2A50 + kind, len(content)) + content


def window_zstd_frame(window_log: int, blocks: int = 1) -> bytes:
    """Return a frame with a window of 2**window_log bytes. Each of its blocks is one letter repeated to 128 KiB."""
    repeated = struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"a"
    end = struct.pack("<I", 1)[:3]  # The last block, raw and empty.
    return b"\x28\xb5\x2f\xfd" + bytes([0, (window_log - 10) << 3]) + repeated * blocks + end


# "iccid,account\n8988,acme\n" from `zstd`, which adds a checksum of the content, so any damage is detected.
CHECKED_FRAME = bytes.fromhex("28b52ffd0458c1000069636369642c6163636f756e740a383938382c61636d650adf6dc874")
CHECKED_CONTENT = b"iccid,account\n8988,acme\n"
