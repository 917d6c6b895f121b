"""Columns of Parquet and Arrow of every type that a key or a quantity may have, through the driver (F2)."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rating.errors import MappingError
from tests.support.ingested import CARD, Ingested

WHEN = dt.datetime(2026, 10, 1, 1, tzinfo=dt.UTC)
ONE, TWO = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"), uuid.UUID("ffffffff-0000-0000-0000-000000000001")


def columns(kind: str, binary: str = "text") -> str:
    """A mapping of id, iccid, bytes and time."""
    return f"""
name = "columns"
[format]
type = "{kind}"
binary = "{binary}"
[[records]]
service = "data"
key = ["id"]
[records.fields]
iccid = {{ from = "iccid" }}
quantity = {{ from = "bytes" }}
used_at = {{ from = "at" }}
"""


def write(path: Path, kind: str, ids: pa.Array, volumes: pa.Array | None = None) -> bytes:
    """Write two records with these keys and volumes, and return the file."""
    table = pa.table(
        {
            "id": ids,
            "iccid": pa.array([CARD] * 2),
            "bytes": pa.array([5, 7]) if volumes is None else volumes,
            "at": pa.array([WHEN] * 2),
        }
    )
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("ids", "keys"),
    [
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([ONE.bytes, TWO.bytes], pa.binary(16))), [ONE, TWO]),
        (pa.array([ONE.bytes, TWO.bytes], pa.binary(16)), [ONE.hex, TWO.hex]),
        (pa.array([2**64 - 1, 2**63], pa.uint64()), [2**64 - 1, 2**63]),
        (pa.array([-(2**63), 2**63 - 1], pa.int64()), [-(2**63), 2**63 - 1]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())), [1, 0]),
        (pa.array([Decimal(10) ** 40, Decimal(1)], pa.decimal256(50, 0)), [10**40, 1]),
    ],
)
def test_keys(tmp_path: Path, kind: str, ids: pa.Array, keys: list[object]) -> None:
    """Each key is distinct, and is the text that people write for it."""
    weir = Ingested(tmp_path)
    weir.ingest(weir.mapping(columns(kind)), write(tmp_path / "file", kind, ids))
    assert {str(key): units for key, units in zip(keys, (5, 7), strict=True)} == weir.used()


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_keys_of_bytes(tmp_path: Path, kind: str) -> None:
    """Bytes that are no text are refused, with what to say in the mapping; then they are keys in hexadecimal."""
    weir = Ingested(tmp_path)
    content = write(tmp_path / "file", kind, pa.array([b"\xff\x00", b"ok"], pa.binary()))
    weir.ingest(weir.mapping(columns(kind)), content)
    assert {"ok": 7} == weir.used()
    assert 'binary = "hex"' in weir.rows("rejected")["message"][0]
    weir.ingest(weir.mapping(columns(kind, "hex").replace('"columns"', '"dump"')), content, name="again")
    assert {"ok": 7, "ff00": 5, "6f6b": 7} == weir.used()


@pytest.mark.parametrize(
    "volumes",
    [
        pa.array([Decimal("5.000001"), Decimal("7")], pa.decimal256(50, 6)),
        pa.array([Decimal("5.000001"), Decimal("7")], pa.decimal128(20, 6)),
        pa.array([Decimal("5.01"), Decimal("7")], pa.decimal32(5, 2)),
        pa.array(["5", "7"], pa.string_view()),
        pa.array([5.0, 7.0], pa.float16()),
        pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array([5, 7])),
    ],
    ids=str,
)
def test_quantities(tmp_path: Path, volumes: pa.Array) -> None:
    """A quantity is read from any type of number."""
    weir = Ingested(tmp_path)
    weir.ingest(weir.mapping(columns("arrow")), write(tmp_path / "file", "arrow", pa.array(["a", "b"]), volumes))
    assert {"a": 5, "b": 7} == weir.used()


def test_a_type_that_is_no_value_is_named(tmp_path: Path) -> None:
    """A column of lists is refused by name, and never a traceback."""
    weir = Ingested(tmp_path)
    content = write(tmp_path / "file", "parquet", pa.array(["a", "b"]), pa.array([[5], [7]]))
    with pytest.raises(MappingError, match=r"bytes: found a column of list.*; expected text, numbers"):
        weir.ingest(weir.mapping(columns("parquet")), content)
