"""Every output of every stage fits a message, whatever the sizes of header, line, key and source are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.journal.entries import Tick
from pipeline.journal.messages import LIMIT_BYTES, messages_of
from pipeline.streaming.rate.output_messages import encode, fill_rejected
from pipeline.streaming.rate.reject_details import reject_messages
from pipeline.streaming.raw.headers import RawMessage
from pipeline.streaming.raw.messages import kept_line, origin_of
from pipeline.streaming.raw.reading import Origin
from tests.support.hostile_messages import AS_OF_US, HEAD, Folding, iccid, message

ROOT = Path(__file__).parents[2]
SIZES = st.sampled_from([0, 1, 5_000, 30_000, 64_000, 200_000, 640_000, 660_000, 760_000, 1_000_000])
FILLS = st.sampled_from([b"x", b"\x01", b'"', b"\xc3\xa4", b"\xff"])


def text(size: int, fill: bytes, seed: int) -> bytes:
    """About `size` bytes that no compression makes small, if they are letters."""
    if fill == b"x":
        return np.random.default_rng(seed).integers(97, 123, size, np.uint8).tobytes()
    return fill * (size // len(fill))


@settings(max_examples=25)
@given(header=SIZES, line=SIZES, key=SIZES, source=SIZES, fill=FILLS, known=st.booleans(), single=st.booleans())
def test_whatever_is_rejected_or_rated_fits_a_message(
    header: int, line: int, key: int, source: int, fill: bytes, known: bool, single: bool
) -> None:
    """In the journal, in usage.rated and in usage.rejected; so does the same record once the fold has rejected it."""
    columns = HEAD + b"," + text(min(header, 63_000), b"x", 1)
    card = iccid(1 if known else 999).encode()
    record = text(key, fill, 2) + b",data," + card + b",1,1,2026-10-20T00:00:00Z," + text(line, fill, 3)
    headers = (("feed", b"plain"), ("csv-header", columns))
    place = (("form", b"lines"), ("source", text(source, fill, 4)), ("digest", b"0"), ("row", b"2"))
    one = message(record.replace(b"\n", b" ") + b"\n", *headers, *(() if single else place))
    folding = Folding()
    at = folding.raw
    done = folding.mediate(one)
    assert not done.unmediated
    assert all(len(content) <= LIMIT_BYTES for _, content in done.journal)
    for output in folding.take([content for _, content in done.journal]):
        filled = fill_rejected(output, lambda fence, rows: _origin(one, rows))
        assert all(len(content) <= LIMIT_BYTES for content in encode(filled))
        told = reject_messages(filled)
        assert all(len(content) <= LIMIT_BYTES for content in told)
        for content in told:
            row = msgspec.json.decode(content)
            assert row["raw"] or row.get("raw_bytes")
    assert folding.raw == at + 1


def _origin(one: RawMessage, rows: list[int]) -> Origin:
    if one.is_chunk:
        return origin_of(one, rows)
    return Origin("usage.raw[0]", one.header("csv-header"), [kept_line(one.value)] * len(rows))


def test_many_small_entries_fit_too() -> None:
    """Ticks without rows: each message of the output names all entries of it, so they are some hundreds at most."""
    folding = Folding()
    ticks = [content for at in range(2_000) for content in messages_of(Tick(AS_OF_US + at))]
    outputs = folding.take(ticks)
    assert max(len(content) for output in outputs for content in encode(output)) < 100_000
    assert sum(len(output.parts) for output in outputs) == 2_000


@pytest.mark.parametrize("kind", ["packed buffers", "packed lines"])
def test_what_unpacks_without_end_is_one_reject(kind: str) -> None:
    """A few hundred bytes that unpack to 1 GiB: rejected within 400 MB more than the process had before."""
    making = """
import sys
import pyarrow as pa
from tests.support.hostile_messages import bomb
packed = pa.Codec("zstd", 1).compress(bytes(1 << 30), asbytes=True)
sys.stdout.buffer.write(bomb(1 << 30).value if sys.argv[1] == "packed buffers" else packed)
"""
    taking = """
import resource, sys
from tests.support.hostile_messages import Folding
from pipeline.streaming.raw.headers import RawMessage
folding = Folding()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
value, form = sys.stdin.buffer.read(), sys.argv[1].encode()
headers = (("feed", b"1nce"), ("encoding", b"zstd"), ("form", form), ("source", b"f"), ("digest", b"0"), ("row", b"2"))
done = folding.mediate(RawMessage(value, headers))
assert (done.records, done.rejected, done.unread) == (0, 1, 1), done
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    made = subprocess.run([sys.executable, "-c", making, kind], cwd=ROOT, capture_output=True, check=True)
    assert len(made.stdout) < 200_000
    form = "rows" if kind == "packed buffers" else "lines"
    done = subprocess.run(
        [sys.executable, "-c", taking, form], cwd=ROOT, input=made.stdout, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stdout) < 400_000  # KiB
