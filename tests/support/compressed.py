"""zstd data for tests: frames as Arrow writes them, frames without content, and one as the `zstd` command writes it."""

from __future__ import annotations

import struct

import pyarrow as pa


def zstd_frame(content: bytes) -> bytes:
    """One frame that states the size of its content."""
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def streamed_zstd_frame(content: bytes) -> bytes:
    """One frame that does not state the size of its content, as a program writes that packs a stream."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


def skippable_zstd_frame(content: bytes, kind: int = 0) -> bytes:
    """A frame whose bytes are no content; `kind` is 0 to 15."""
    return struct.pack("<II", 0x184D2A50 + kind, len(content)) + content


def window_zstd_frame(window_log: int, blocks: int = 1) -> bytes:
    """A frame with a window of 2**window_log bytes and so many blocks of 128 KiB, each one letter repeated."""
    repeated = struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"a"
    end = struct.pack("<I", 1)[:3]  # the last block, raw and empty
    return b"\x28\xb5\x2f\xfd" + bytes([0, (window_log - 10) << 3]) + repeated * blocks + end


# "iccid,account\n8988,acme\n" by `zstd`, which adds a checksum of the content: any damage to it is found.
CHECKED_FRAME = bytes.fromhex("28b52ffd0458c1000069636369642c6163636f756e740a383938382c61636d650adf6dc874")
CHECKED_CONTENT = b"iccid,account\n8988,acme\n"
