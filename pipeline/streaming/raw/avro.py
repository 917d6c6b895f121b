"""Converts Avro records, one in each message, to lines of JSON (F2)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import fastavro
import msgspec

from rating.errors import UsageError
from schemas.choices import AvroFraming

_PREFIX_BYTES: Final = 5  # a zero byte and the four bytes of a schema id
_MESSAGE_CHARACTERS: Final = 200


class AvroRecords:
    """Decodes records of one schema.

    `framing`: "registry" records have the prefix of a schema registry, which is skipped; "plain" records have none.
    With "auto", a record that begins with a zero byte is read after a prefix first, and without one if that fails.
    """

    def __init__(self, schema: Any, framing: AvroFraming = "auto") -> None:
        self._schema = fastavro.parse_schema(schema)
        self._framing = framing

    @classmethod
    def load(cls, path: Path, framing: AvroFraming = "auto") -> AvroRecords:
        """Load the schema from a file. Raises UsageError if the file cannot be read or is not an Avro schema."""
        try:
            return cls(msgspec.json.decode(path.read_bytes()), framing)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}; expected an Avro schema (.avsc)") from error
        except Exception as error:  # fastavro raises many types of exception
            raise UsageError(f"{path}: found no Avro schema ({_said(error)}); expected one in JSON (.avsc)") from error

    def as_json(self, values: Sequence[bytes]) -> tuple[list[bytes], dict[int, str]]:
        """Convert each value to JSON. Returns the lines, and error messages by index.

        A value that does not fit the schema is returned unchanged. Times become ISO 8601, decimals text, bytes base64.
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
        """Decode the record from `start` to the end of the value. Raises ValueError if bytes are left."""
        stream = io.BytesIO(value)
        stream.seek(start)
        record = fastavro.schemaless_reader(stream, self._schema, None)
        if stream.tell() != len(value):
            raise ValueError(f"{len(value) - stream.tell()} bytes are left behind it")
        return record


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
