"""Avro records, each in a message of its own, as lines of JSON (F2)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import fastavro
import msgspec

from rating.errors import UsageError
from schemas.choices import AvroFraming

_PREFIX_BYTES: Final = 5  # a zero byte and the number of a schema
_MESSAGE_CHARACTERS: Final = 200


class AvroRecords:
    """Records of one schema.

    "registry" records have the prefix of a schema registry, which is skipped; "plain" ones have none; with "auto"
    those that begin with a zero byte are read behind a prefix first, and plainly where that fails.
    """

    def __init__(self, schema: Any, framing: AvroFraming = "auto") -> None:
        self._schema = fastavro.parse_schema(schema)
        self._framing = framing

    @classmethod
    def load(cls, path: Path, framing: AvroFraming = "auto") -> AvroRecords:
        """The schema of a file. Raises UsageError where it cannot be read or is none."""
        try:
            return cls(msgspec.json.decode(path.read_bytes()), framing)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}; expected an Avro schema (.avsc)") from error
        except Exception as error:  # whatever the schema is, fastavro says it in ways of its own
            raise UsageError(f"{path}: found no Avro schema ({_said(error)}); expected one in JSON (.avsc)") from error

    def as_json(self, values: Sequence[bytes]) -> tuple[list[bytes], dict[int, str]]:
        """Each record as JSON, and why, by place, where a value is none of the schema: there it is as it came.

        Times are ISO 8601, decimals texts, bytes base64.
        """
        encode = msgspec.json.Encoder().encode
        lines: list[bytes] = []
        unread: dict[int, str] = {}
        for place, value in enumerate(values):
            try:
                lines.append(encode(self._record(value)))
            except Exception as error:  # a damaged record can raise anything
                unread[place] = f"found no record of the Avro schema ({_said(error)})"
                lines.append(value)
        return lines, unread

    def _record(self, value: bytes) -> Any:
        if self._framing == "plain" or (self._framing == "auto" and value[:1] != b"\0"):
            return self._whole(value, 0)
        try:
            if value[:1] != b"\0" or len(value) < _PREFIX_BYTES:
                raise ValueError("it lacks the prefix of a schema registry")
            return self._whole(value, _PREFIX_BYTES)
        except Exception:
            if self._framing == "registry":
                raise
            return self._whole(value, 0)

    def _whole(self, value: bytes, start: int) -> Any:
        """The record from `start` to the end of the value."""
        stream = io.BytesIO(value)
        stream.seek(start)
        record = fastavro.schemaless_reader(stream, self._schema, None)
        if stream.tell() != len(value):
            raise ValueError(f"{len(value) - stream.tell()} bytes are left behind it")
        return record


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
