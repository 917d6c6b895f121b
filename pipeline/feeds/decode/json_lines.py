"""Decodes NDJSON: one JSON object on each physical line (F2, F5)."""

from __future__ import annotations

import numpy as np

from pipeline.feeds.decode.chunk import Chunk, merge_rejects, reject_frame
from pipeline.feeds.decode.lines import LineBlock
from pipeline.feeds.decode.shape import RecordShape
from pipeline.feeds.decode.text import decode_lines
from schemas.mapping import Mapping

# A line can explode into many records. Smaller blocks keep a hostile file from filling the memory.
EXPLODED_CHUNK_BYTES = 1 << 20


class JsonLinesDecoder:
    """Decodes blocks of one NDJSON file."""

    def __init__(self, mapping: Mapping) -> None:
        self._encoding = mapping.format.encoding
        self._shape = RecordShape(mapping.sources(), mapping.format.explode)

    def decode(self, block: LineBlock) -> Chunk:
        """Decode the records of `block`. Each line becomes rows of raw or a reject, or is blank."""
        if block.too_long:
            raw, _ = self._shape.decode([], [])
            rejects = [reject_frame([block.first_row], "too_long", "the line is longer than 1 MiB")]
            return Chunk(raw, merge_rejects(rejects), block.raw_lines, block.end)
        text = decode_lines(block, self._encoding)
        lines = text.data.split(b"\n")[:-1]
        rows = [row for row, line in enumerate(lines, block.first_row) if line and not line.isspace()]
        if len(rows) < len(lines):
            lines = [line for line in lines if line and not line.isspace()]
        raw, refused = self._shape.decode(lines, rows)
        rejects = list(text.rejects)
        if refused:
            rejects.append(reject_frame(np.fromiter(refused, np.int64), "malformed", list(refused.values())))
        return Chunk(raw, merge_rejects(rejects), block.raw_lines, block.end)
