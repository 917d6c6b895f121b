"""Decodes the mapped paths of JSON records into columns of text, without loss.

Numbers keep their decimal text, so no quantity becomes a float. Only the mapped paths are built as objects. The parser
rejects JSON that is nested too deeply instead of exhausting the stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from schemas.mapping import SOURCE_ELEMENT

MAX_ELEMENTS = 1000

_BATCH_RECORDS = 8192
_BATCH_BYTES = 1 << 20
_ANY = msgspec.json.Decoder(float_hook=str)


class _Node:
    """A step of the mapped paths: an object with named children, an array of objects, or (neither) a leaf."""

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.elements: _Node | None = None
        self.is_leaf = False

    def type(self) -> Any:
        """Return the msgspec type that decodes this step. A leaf, even one with children, keeps any value."""
        if self.is_leaf:
            return Any
        if self.elements is not None:
            return list[self.elements.type()] | None  # type: ignore[misc]
        names = list(self.children)
        renamed = {f"f{index}": name for index, name in enumerate(names)}
        fields = [(f"f{index}", self.children[name].type(), None) for index, name in enumerate(names)]
        return msgspec.defstruct("Step", fields, rename=renamed) | None

    def prune(self, value: Any) -> Any:
        """Return `value` with None for every step that has another kind than the mapped one."""
        if self.is_leaf:
            return value
        if self.elements is not None:
            return [self.elements.prune(item) for item in value] if isinstance(value, list) else None
        if not isinstance(value, dict):
            return None
        return {name: child.prune(value[name]) for name, child in self.children.items() if name in value}


class RecordShape:
    """Decodes JSON objects into one text column for each of `paths`. `explode` is the path of an array of records.

    A numeric step of a path is an array index.
    """

    def __init__(self, paths: Iterable[str], explode: str = "") -> None:
        self.paths = tuple(paths)
        self._explode = tuple(explode.split(".")) if explode else ()
        self._root = _Node()
        self._tails: dict[str, tuple[tuple[str, ...], bool, tuple[str, ...]]] = {}
        prefix = explode + "."
        if self._explode:
            self._place(self._explode).elements = _Node()
        for path in self.paths:
            inside = bool(explode) and path.startswith(prefix)
            steps = tuple((path[len(prefix) :] if inside else path).split("."))
            cut = next((index for index, step in enumerate(steps) if step.isdecimal()), len(steps))
            self._tails[path] = (steps[:cut], inside, steps[cut:])
        for head, inside, _ in self._tails.values():
            base = self._place(self._explode).elements if inside else self._root
            assert base is not None
            self._mark(base, head)
        self._decoder = msgspec.json.Decoder(self._root.type(), float_hook=str)

    def columns(self) -> dict[str, pl.DataType]:
        """Return the schema of the frames that `decode` returns."""
        schema: dict[str, pl.DataType] = {path: pl.String() for path in self.paths}
        if self._explode:
            schema[SOURCE_ELEMENT] = pl.String()
        return schema | {"source_row": pl.Int64()}

    def decode(self, records: Sequence[bytes], rows: Sequence[int]) -> tuple[pl.DataFrame, dict[int, str]]:
        """Decode records, numbered by `rows`, into text columns.

        Also returns what was found in each row that is not a record.
        """
        frames: list[pl.DataFrame] = []
        refused: dict[int, str] = {}
        batch: list[Any] = []
        numbers: list[int] = []
        size = 0
        decode = self._decoder.decode
        for record, row in zip(records, rows, strict=True):
            try:
                value = decode(record)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                value, found = self._decode_loosely(record)
                if value is None:
                    refused[row] = found
                    continue
            if value is None:
                refused[row] = "found null; expected a JSON object"
                continue
            batch.append(value)
            numbers.append(row)
            size += len(record)
            if len(batch) >= _BATCH_RECORDS or size >= _BATCH_BYTES:
                frames.append(self._frame(batch, numbers, refused))
                batch, numbers, size = [], [], 0
        if batch or not frames:
            frames.append(self._frame(batch, numbers, refused))
        return pl.concat(frames), refused

    def _decode_loosely(self, record: bytes) -> tuple[Any, str]:
        """Decode a record, ignoring values that do not fit the mapped paths.

        Returns None and what was found if that fails.
        """
        try:
            value = _ANY.decode(record)
        except RecursionError:
            return None, "found JSON nested too deep; expected a flat record"
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return None, f"found a line that is not JSON: {error}"[:200]
        if not isinstance(value, dict):
            return None, "found JSON that is no object; expected a record"
        try:
            return msgspec.convert(self._root.prune(value), self._root.type()), ""
        except msgspec.ValidationError as error:
            return None, f"found JSON that is no record: {error}"[:200]

    def _frame(self, batch: list[Any], numbers: list[int], refused: dict[int, str]) -> pl.DataFrame:
        if not self._explode:
            data = {path: _texts(self._values(batch, self._root, path)) for path in self.paths}
            return pl.DataFrame(data | {"source_row": pl.Series(numbers, dtype=pl.Int64)})
        arrays = self._walk(batch, self._root, self._explode)
        for row, array in zip(numbers, arrays, strict=True):
            if array is not None and len(array) > MAX_ELEMENTS:
                refused[row] = f"found {len(array)} elements; expected at most {MAX_ELEMENTS}"
        kept = [index for index, row in enumerate(numbers) if row not in refused]
        filled = [arrays[index] or [None] for index in kept]
        elements = [element for array in filled for element in array]
        counts = np.array([len(array) for array in filled], np.int64)
        outer = np.repeat(np.arange(len(kept)), counts)
        batch = [batch[index] for index in kept]
        node = self._place(self._explode).elements
        assert node is not None
        columns: dict[str, pl.Series] = {}
        for path, (_, inside, _) in self._tails.items():
            if inside:
                columns[path] = _texts(self._values(elements, node, path))
            else:
                columns[path] = _texts(self._values(batch, self._root, path)).gather(outer)
        within = np.arange(len(elements)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns[SOURCE_ELEMENT] = pl.Series(within, dtype=pl.Int64).cast(pl.String)
        columns["source_row"] = pl.Series([numbers[index] for index in kept], dtype=pl.Int64).gather(outer)
        return pl.DataFrame(columns)

    def _place(self, steps: tuple[str, ...]) -> _Node:
        node = self._root
        for step in steps:
            node = node.children.setdefault(step, _Node())
        return node

    def _mark(self, node: _Node, head: tuple[str, ...]) -> None:
        for step in head:
            node = node.children.setdefault(step, _Node())
        if node.elements is None:
            node.is_leaf = True

    def _values(self, values: list[Any], node: _Node, path: str) -> list[Any]:
        head, _, tail = self._tails[path]
        return self._walk(values, node, head, tail)

    def _walk(self, values: list[Any], node: _Node, head: tuple[str, ...], tail: tuple[str, ...] = ()) -> list[Any]:
        for depth, step in enumerate(head):
            if node.is_leaf:
                tail = head[depth:] + tail
                break
            name = f"f{list(node.children).index(step)}"
            values = [None if value is None else getattr(value, name) for value in values]
            node = node.children[step]
        return [_dig(value, tail) for value in values] if tail else values


def _dig(value: Any, steps: tuple[str, ...]) -> Any:
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and len(step) < 10 and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _texts(values: list[Any]) -> pl.Series:
    return pl.Series([v if v is None or type(v) is str else _text(v) for v in values], dtype=pl.String)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return msgspec.json.encode(value).decode("utf-8")
