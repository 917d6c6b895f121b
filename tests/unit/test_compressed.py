"""Compressed files: several frames, frames without content, data that is cut off or damaged, and large windows."""

from __future__ import annotations

import gzip
import random
import re
import tempfile
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalogue.files import read_bytes
from pipeline.catalogue.findings import Findings
from pipeline.feeds.decode.stream import BOMB_FLOOR_BYTES, ByteStream, compression_of
from rating.errors import CatalogueError, SourceError
from tests.support.compressed import (
    CHECKED_CONTENT,
    CHECKED_FRAME,
    skippable_zstd_frame,
    streamed_zstd_frame,
    window_zstd_frame,
    zstd_frame,
)

ARROW_READS_BYTES = 64 << 10  # of the compressed file at a time: what happens at this border is worth a look


def read_feed(path: Path, start: int = 0, step: int = 50_000) -> bytes:
    """What ByteStream gives of a file from an offset of its content on."""
    pieces = []
    with ByteStream(path, start) as stream:
        while piece := stream.peek(step):
            pieces.append(piece)
            stream.skip(len(piece))
    return b"".join(pieces)


def read_catalogue(path: Path) -> bytes | None:
    """What the catalogue reads of a file; None if a finding says that the compressed data is damaged."""
    findings = Findings()
    data = read_bytes(path, findings)
    if data is None:
        with pytest.raises(CatalogueError, match="damaged compressed data"):
            findings.raise_any()
    return data


def readable(path: Path) -> bytes | None:
    """What both readers make of a file, which is the same; None if both refuse it."""
    data = read_catalogue(path)
    if data is None:
        with pytest.raises(SourceError, match=rf"^{re.escape(str(path))}: cannot be read: "):
            read_feed(path)
    else:
        assert data == read_feed(path)
    return data


def content_of(seed: int, size: int, packable: bool) -> bytes:
    """Bytes that do not compress at all, or compress well; short lines, since a catalogue has no long ones."""
    chance = random.Random(seed)
    if packable:
        return b"".join(b"%d,%d\n" % (row, chance.randrange(1000)) for row in range(size // 8))
    return chance.randbytes(size)


Part = tuple[bytes, bytes]  # of a compressed file, and its content

SIZES = st.integers(0, 300) | st.integers(ARROW_READS_BYTES - 30, ARROW_READS_BYTES + 30) | st.integers(0, 200_000)
CONTENTS = st.builds(content_of, st.integers(0, 1 << 20), SIZES, st.booleans()) | st.just(b"")
ZSTD_PARTS = CONTENTS.flatmap(
    lambda content: st.sampled_from(
        [(zstd_frame(content), content), (streamed_zstd_frame(content), content), (CHECKED_FRAME, CHECKED_CONTENT)]
    )
) | st.builds(lambda content, kind: (skippable_zstd_frame(content, kind), b""), CONTENTS, st.integers(0, 15))
GZIP_PARTS = CONTENTS.map(lambda content: (gzip.compress(content, 1, mtime=0), content))


@given(st.lists(ZSTD_PARTS, min_size=1, max_size=6) | st.lists(GZIP_PARTS, min_size=1, max_size=4), st.data())
def test_what_is_cut_off_is_never_taken_for_the_whole(parts: list[Part], data: st.DataObject) -> None:
    """The content of all parts is read in order; a file that ends within a part is refused, wherever it ends."""
    packed, content = b"".join(part for part, _ in parts), b"".join(of for _, of in parts)
    ends = dict(zip(accumulate(len(part) for part, _ in parts), accumulate(len(of) for _, of in parts), strict=True))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "file"
        path.write_bytes(packed)
        assert content == readable(path)
        start = data.draw(st.integers(0, len(content)), "start")
        assert content[start:] == read_feed(path, start, data.draw(st.integers(1000, 1 << 20), "step"))
        borders = [end + by for end in ends for by in (-1, 0, 1, 3, 4, 8)]
        borders += range(ARROW_READS_BYTES, len(packed), ARROW_READS_BYTES)
        drawn = data.draw(st.lists(st.integers(4, len(packed)), min_size=4, max_size=4), "cuts")
        for cut in {cut for cut in [*borders, *drawn] if 4 <= cut <= len(packed)}:
            path.write_bytes(packed[:cut])
            assert (content[: ends[cut]] if cut in ends else None) == readable(path), cut


@pytest.mark.parametrize("pack", [zstd_frame, streamed_zstd_frame, gzip.compress])
def test_no_cut_of_a_small_file_goes_unseen(tmp_path: Path, pack: object) -> None:
    """Byte by byte."""
    packed = pack(content_of(1, 4000, packable=True))  # type: ignore[operator]
    path = tmp_path / "file"
    for cut in range(4, len(packed)):
        path.write_bytes(packed[:cut])
        assert readable(path) is None, cut


@pytest.mark.parametrize("packed", [CHECKED_FRAME, gzip.compress(CHECKED_CONTENT, mtime=0)])
def test_damage_to_data_with_a_checksum_does_not_change_content(tmp_path: Path, packed: bytes) -> None:
    """A bit that flips after the magic number leaves the content as it was, or makes the file unreadable."""
    path = tmp_path / "file"
    for bit in range(32, 8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert readable(path) in (None, CHECKED_CONTENT), bit


@pytest.mark.parametrize("more", [b"x", b"garbage", b"iccid,account\n8988,acme\n", b"\x28\xb5\x2f"])
@pytest.mark.parametrize("pack", [zstd_frame, gzip.compress])
def test_what_follows_the_last_frame_is_no_content(tmp_path: Path, pack: object, more: bytes) -> None:
    """Bytes after compressed data that are none themselves make the file unreadable."""
    path = tmp_path / "file"
    path.write_bytes(pack(CHECKED_CONTENT) + more)  # type: ignore[operator]
    assert readable(path) is None


@pytest.mark.parametrize("kind", range(16))
def test_a_file_may_begin_with_a_frame_without_content(tmp_path: Path, kind: int) -> None:
    """As pzstd writes it: each frame comes after one that says how long it is."""
    path = tmp_path / "file"
    path.write_bytes((skippable_zstd_frame(b"\1\2\3\4", kind) + zstd_frame(CHECKED_CONTENT)) * 2)
    assert "zstd" == compression_of(path.read_bytes()[:4])
    assert CHECKED_CONTENT * 2 == readable(path)


def test_large_windows_are_refused_by_name(tmp_path: Path) -> None:
    """Up to 128 MiB of memory go to a frame's window; a larger one is an error that says what would be right."""
    path = tmp_path / "file"
    path.write_bytes(window_zstd_frame(27, blocks=2))
    assert 2 << 17 == len(read_feed(path))
    for window_log in (28, 31, 41):
        path.write_bytes(window_zstd_frame(window_log, blocks=2))
        with pytest.raises(SourceError, match=r"file: cannot be read: .* window of at most 128 MiB"):
            read_feed(path)
        assert read_catalogue(path) is None


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """Of a small file that unpacks to more than 256 MiB."""
    path = tmp_path / "file"
    path.write_bytes(window_zstd_frame(20, blocks=(BOMB_FLOOR_BYTES >> 17) + 8))
    with pytest.raises(SourceError, match="decompression bomb"):
        read_feed(path, step=1 << 20)
