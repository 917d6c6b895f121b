"""Files of commands (schemas.commands): NDJSON, one object with a `type` per line. Either all are accepted, or none.

{"type": "activate", "rule": "cap"}
{"type": "suspended", "iccid": "8988303000000000017", "reason": "over_quota", "action_id": "0.812.…"}
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from pipeline.catalogue.files import read_bytes
from pipeline.catalogue.findings import NOTHING, EnoughFound, Findings, Text, choice
from rating.engine import Engine
from rating.errors import RuleError, SourceError, UsageError
from schemas.choices import CARD_STATUSES
from schemas.commands import Command, StatusChanged

STANDARD_INPUT: Final = Path("-")

_KINDS: Final[dict[str, type[msgspec.Struct]]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Command)}
_WORDS: Final[tuple[tuple[type, str], ...]] = (
    (msgspec.inspect.DateTimeType, "a time with its offset such as 2026-10-01T08:00:00Z"),
    (msgspec.inspect.DateType, "a date such as 2026-10-01"),
    (msgspec.inspect.StrType, "text"),
)


@dataclass
class Given:
    """Commands in the given order, each with its file and line."""

    commands: list[Command] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.commands)


def read_commands(paths: Sequence[Path]) -> Given:
    """Return the commands of the files, in order; `-` is standard input.

    Raises SourceError if a file cannot be read, and CatalogueError with all findings if a line is no command.
    """
    given, findings = Given(), Findings()
    try:
        for path in paths:
            name = "standard input" if path == STANDARD_INPUT else str(path)
            content = _standard_input() if path == STANDARD_INPUT else read_bytes(path, findings)
            for number, line in enumerate((content or b"").split(b"\n"), 1):
                if line.strip():
                    command = _command(line, name, number, findings)
                    if command is not None:
                        given.commands.append(command)
                        given.places.append((name, number))
    except EnoughFound:
        pass
    findings.raise_any()
    return given


def require_possible(engine: Engine, given: Given) -> None:
    """Check that the commands can take effect in order.

    Raises RuleError or UsageError with the file and line of the first command that cannot follow those before it.
    """
    refusal = _refusal(engine, given.commands)
    if refusal is None:
        return
    # A command may depend on those before it. So the shortest prefix that is rejected ends with the bad command.
    possible, refused = 0, len(given)
    while refused - possible > 1:
        middle = (possible + refused) // 2
        found = _refusal(engine, given.commands[:middle])
        if found is None:
            possible = middle
        else:
            refused, refusal = middle, found
    file, line = given.places[refused - 1]
    if isinstance(refusal, RuleError):
        raise RuleError(replace(refusal.finding, file=file, line=line))
    raise UsageError(f"{file}:{line}: {refusal}")


def _refusal(engine: Engine, commands: Sequence[Command]) -> RuleError | UsageError | None:
    try:
        engine.check_commands(commands)
    except (RuleError, UsageError) as error:
        return error
    return None


def _standard_input() -> bytes:
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise SourceError(f"standard input: cannot be read: {error.strerror}; give a file instead") from error


def _command(line: bytes, file: str, number: int, findings: Findings) -> Command | None:
    """Return the command of a line; add findings and return None if it is no command."""
    before = len(findings.all)
    try:
        value = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        findings.place(file, number, "line", Text(f"no JSON ({error})"), "one JSON object a line")
        return None
    if not isinstance(value, dict):
        findings.place(file, number, "line", value, 'an object such as {"type": "activate", "rule": "cap"}')
        return None
    kind = _KINDS.get(value["type"]) if isinstance(value.get("type"), str) else None
    if kind is None:
        findings.place(file, number, "type", value.get("type", NOTHING), choice(value.get("type"), _KINDS))
        return None
    known = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    for name in value.keys() - known.keys() - {"type"}:
        legal = [other for other in known if other not in value]
        findings.place(file, number, name, value[name], choice(name, legal, "no field of this name, but one of"))
    for name, one in known.items():
        if name in value:
            if not _is(value[name], one.type):
                findings.place(file, number, name, value[name], _wanted(one.type))
        elif one.required:
            findings.place(file, number, name, NOTHING, _wanted(one.type))
    status = value.get("status")
    if kind is StatusChanged and isinstance(status, str) and status not in CARD_STATUSES:
        findings.place(file, number, "status", status, choice(status, CARD_STATUSES))
    return None if len(findings.all) > before else msgspec.convert(value, kind)  # type: ignore[return-value]


def _is(value: object, kind: Any) -> bool:
    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return not isinstance(converted, dt.datetime) or converted.tzinfo is not None


def _wanted(kind: Any) -> str:
    shape = msgspec.inspect.type_info(kind)
    shapes = shape.types if isinstance(shape, msgspec.inspect.UnionType) else (shape,)
    for one in shapes:
        if isinstance(one, msgspec.inspect.LiteralType):
            return choice(None, map(str, one.values))
        for of, words in _WORDS:
            if isinstance(one, of):
                return words
    return "another value"
