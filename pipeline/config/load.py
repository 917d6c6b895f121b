"""Loading of the configuration: the file, overrides from the environment, and validation."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from pipeline.catalogue.conform import conform
from pipeline.catalogue.findings import Entry, Findings, FloatText, Text, choice
from pipeline.catalogue.lines import Lines, locate
from pipeline.catalogue.lines import Path as Place
from pipeline.config.clickhouse import ClickHouse, clickhouse_problems
from pipeline.config.kafka import Kafka, kafka_problems
from pipeline.config.outbox import Outbox, outbox_problems
from pipeline.config.table import ConfigTable, Problem
from pipeline.config.worker import Worker, worker_problems
from rating.errors import CatalogueError, ConfigError, dotted

DEFAULT: Final = Path("weir.toml")

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")
_SECRETS: Final = ("secret", "password", "key_password", "token")
# Names of fields that are paths. Paths are relative to the folder of the configuration file.
_PATHS: Final = ("file", "path", "ca_file", "cert_file", "key_file", "history")
_PATHS_OF_SECRETS: Final = tuple(f"{name}_file" for name in _SECRETS)
_LISTS_OF_PATHS: Final = ("feeds",)


class _Nowhere(Lines):
    """Line numbers for values from the environment: always 0."""

    def __init__(self) -> None:
        super().__init__({})

    def line(self, path: Place) -> int:
        return 0


class Config(ConfigTable, frozen=True):
    """The whole configuration. A part that the file lacks has its defaults."""

    outbox: Outbox = Outbox()
    clickhouse: ClickHouse = ClickHouse()
    kafka: Kafka = Kafka()
    worker: Worker = Worker()


_CHECKS: Final[dict[str, tuple[type[msgspec.Struct], Callable[[Any], Iterator[Problem]]]]] = {
    "outbox": (Outbox, outbox_problems),
    "clickhouse": (ClickHouse, clickhouse_problems),
    "kafka": (Kafka, kafka_problems),
    "worker": (Worker, worker_problems),
}
_OVERRIDDEN: Final = ("kafka", "worker")  # parts whose fields the environment may give


def load_config(path: Path | None) -> Config:
    """Return the configuration in `path`, else in weir.toml of the working directory, else the defaults.

    Environment variables override plain fields of [kafka] and [worker] (no lists except `servers`, no tables):
    WEIR_KAFKA_SERVERS, WEIR_WORKER_WEB_PORT and so on. An empty variable counts as absent. Returned paths are absolute.
    Paths in the file are relative to its folder, paths in variables to the working directory.

    Raises ConfigError with all problems: file and line, or variable, the field, what was found, and what is expected.
    """
    text, file = "", DEFAULT if path is None else path
    if path is not None or file.exists():
        try:
            text = file.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}; check --config and $WEIR_CONFIG") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: found bytes that are not UTF-8; save the file as UTF-8") from error
    findings = Findings()
    config = _checked(_document(text, file), str(file), locate(text), findings)
    try:
        findings.raise_any()
    except CatalogueError as error:
        raise ConfigError(str(error)) from None
    assert config is not None
    return config


def read_secret(variable: str | None, file: str | None, of: str) -> str | None:
    """Return the secret in the environment variable or the file; None if neither is named.

    Raises ConfigError if the secret is missing or empty. The error never contains the secret; `of` names its owner.
    """
    if variable is not None:
        place, secret = f"environment variable {variable}", os.environ.get(variable, "")
    elif file is not None:
        place = file
        try:
            secret = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{of}: its secret cannot be read from {file}: {error}; check the file") from error
    else:
        return None
    if not secret.strip():
        raise ConfigError(f"{of}: found no secret in {place}; put it there, then give the command again")
    return secret.strip()


def _document(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=FloatText)
    except (ValueError, RecursionError) as error:
        place = _POSITION.search(str(error))
        where = f"{path}:{place[1] or text.count(chr(10)) + 1}" if place else str(path)
        said = str(error)[: place.start()] if place else str(error)
        raise ConfigError(f"{where}: file: found what is not TOML ({said}); expected TOML 1.0") from error


def _checked(document: dict[str, Any], file: str, lines: Lines, findings: Findings) -> Config | None:
    parts: dict[str, Any] = {}
    folder = Path(file).absolute().parent
    for name in [*document, *(part for part in _OVERRIDDEN if part not in document)]:
        value = document.get(name, {})
        if name not in _CHECKS:
            findings.place(file, lines.line((name,)), name, Text("an unknown table"), choice(name, _CHECKS))
        elif not isinstance(value, dict):
            findings.place(file, lines.line((name,)), name, value, f"a table: write [{name}]")
        else:
            kind, check = _CHECKS[name]
            public = _without_secrets(value, (), Entry(value, file, lines, (name,), name), findings)
            given = _given(name, kind, findings) if name in _OVERRIDDEN else {}
            public = {field: inner for field, inner in public.items() if field not in given}
            entry = Entry(public, file, lines, (name,), name)
            repaired = conform(entry, kind, findings)
            if repaired is None:
                continue
            table = _absolute(repaired, folder) | _absolute(given, Path.cwd())
            if not table:
                continue
            parts[name] = msgspec.convert(table, kind)
            for field, found, expected in check(parts[name]):
                if field[0] in given:
                    findings.place(f"${_variable(name, str(field[0]))}", 0, dotted((name, *field)), found, expected)
                else:
                    findings.add(entry, field, found, expected)
    return Config(**parts)


def _given(part: str, kind: type[msgspec.Struct], findings: Findings) -> dict[str, Any]:
    """Return the plain fields of a part that the environment sets; add findings about values of wrong type."""
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        variable = _variable(part, field.name)
        text = os.environ.get(variable, "").strip()
        if text and (kinds := _plain_kinds(field.type)):
            value = {field.name: _typed(text, kinds)}
            if conform(Entry(value, f"${variable}", _Nowhere(), (part,), part), _alone(kind, field.name), findings):
                given |= value
    return given


def _variable(part: str, field: str) -> str:
    return f"WEIR_{part}_{field}".upper()


def _plain_kinds(annotation: Any) -> set[type[inspect.Type]]:
    """Return those types of a field that a single text can express; empty if there are none."""
    shape = inspect.type_info(annotation)
    shapes = shape.types if isinstance(shape, inspect.UnionType) else (shape,)
    plain = (inspect.StrType, inspect.IntType, inspect.BoolType, inspect.LiteralType)
    return {type(one) for one in shapes if isinstance(one, plain)}


def _typed(text: str, kinds: set[type[inspect.Type]]) -> str | int | bool:
    if inspect.IntType in kinds and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if inspect.BoolType in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text


def _alone(kind: type[msgspec.Struct], name: str) -> type[msgspec.Struct]:
    """Return a struct type that has only this one field of `kind`."""
    annotation = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    return msgspec.defstruct(kind.__name__, [(name, annotation)], forbid_unknown_fields=True)


def _without_secrets(value: Any, place: Place, entry: Entry[dict[str, Any]], findings: Findings) -> Any:
    """Return the value without fields that contain a secret; add findings about them that do not show the secret."""
    if isinstance(value, list):
        return [_without_secrets(item, (*place, at), entry, findings) for at, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for name, inner in value.items():
        if name in _SECRETS:
            expected = f"{name}_env with the name of an environment variable, or {name}_file with a path"
            findings.add(entry, (*place, name), Text("a secret in the file"), expected)
        else:
            kept[name] = _without_secrets(inner, (*place, name), entry, findings)
    return kept


def _absolute(value: Any, folder: Path) -> Any:
    """Return the value with its paths made absolute, relative to `folder`."""
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if name in (*_PATHS, *_PATHS_OF_SECRETS) and isinstance(inner, str):
            found[name] = _path(inner, folder)
        elif name in _LISTS_OF_PATHS and isinstance(inner, list):
            found[name] = [_path(item, folder) if isinstance(item, str) else item for item in inner]
        else:
            found[name] = _absolute(inner, folder)
    return found


def _path(text: str, folder: Path) -> str:
    return text if text in ("-", "") else str(folder / text)
