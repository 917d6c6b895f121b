"""The configuration file: one TOML document, weir.toml, with a table for each part of Weir that can be set up.

A new part is a field of Config and, where types do not say all, a check in _CHECKS. Secrets are never in the file: it
names an environment variable or a file that has them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from pipeline.catalogue.addresses import url_problem
from pipeline.catalogue.conform import conform
from pipeline.catalogue.findings import NOTHING, Entry, Findings, FloatText, Text, choice
from pipeline.catalogue.lines import Lines, locate
from pipeline.catalogue.lines import Path as Place
from rating.errors import CatalogueError, ConfigError
from schemas.rules import ActionType, Channel

DEFAULT: Final = Path("weir.toml")
FILE: Final = "file"  # name of the destination that takes what no route takes
EMAIL: Final = "email"

_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")
_SECRETS: Final = ("secret", "password")
_PATHS: Final = ("file", "path", "ca_file", "secret_file", "password_file")  # relative to the folder of the file

PathText = str  # a path, relative to the folder of the configuration file


class _Table(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    pass


class FileDestination(_Table, frozen=True):
    """A file to append messages to, a line each; "-" is standard output."""

    name: str
    path: PathText


class WebhookDestination(_Table, frozen=True):
    """Where messages are posted; without `url`, where the action names it.

    Addresses that are not public are refused unless they are in one of the networks of `allow`; plain http goes to
    those only. The secret, from the environment or a file, signs; several words in it sign each (rotation).
    """

    name: str
    url: str | None = None
    secret_env: str | None = None
    secret_file: PathText | None = None
    timeout_s: int = 10
    allow: tuple[str, ...] = ()
    ca_file: PathText | None = None


class Email(_Table, frozen=True):
    """The mail server, the sender, and who gets mail where an action names no address."""

    host: str
    sender: str
    port: int | None = None  # 587, of "tls" 465
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password_env: str | None = None
    password_file: PathText | None = None
    to: tuple[str, ...] = ()
    timeout_s: int = 30
    allow: tuple[str, ...] = ()
    ca_file: PathText | None = None


class Route(_Table, frozen=True):
    """The actions that go to the destinations `to`: of these types, rules and, for notify, channels; none: all."""

    to: tuple[str, ...]
    actions: tuple[ActionType, ...] = ()
    channels: tuple[Channel, ...] = ()
    rules: tuple[str, ...] = ()


class Outbox(_Table, frozen=True):
    """How actions leave (docs/actions.md)."""

    file: PathText | None = None  # None: actions.ndjson beside the outbox in the data directory
    attempts: int = 20
    first_delay_s: int = 2
    longest_delay_s: int = 3600
    workers: int = 8
    keep_days: int = 30
    files: tuple[FileDestination, ...] = ()
    webhooks: tuple[WebhookDestination, ...] = ()
    email: Email | None = None
    routes: tuple[Route, ...] = ()


class ClickHouse(_Table, frozen=True):
    """Where ClickHouse is (docs/clickhouse.md): a server by `url`, else the embedded engine at `path`.

    Without both it is embedded in the data directory. A plain http URL is for this machine only once there is a
    password. `patience_s` is how long a sink tries again while ClickHouse is away.
    """

    url: str | None = None
    path: PathText | None = None
    database: str = "weir"
    user: str | None = None
    password_env: str | None = None
    password_file: PathText | None = None
    ca_file: PathText | None = None
    connect_timeout_s: int = 10
    timeout_s: int = 300
    patience_s: int = 300


class Config(_Table, frozen=True):
    """The whole file; a part that is not written has its defaults."""

    outbox: Outbox = Outbox()
    clickhouse: ClickHouse = ClickHouse()


Problem = tuple[Place, object, str]  # field below the part, what was found, what is expected


def load_config(path: Path | None) -> Config:
    """The configuration in `path`, else in weir.toml of the working directory, else the defaults; paths absolute.

    Raises ConfigError with everything that is wrong: file, line, field, what was found and what is expected.
    """
    if path is None and not DEFAULT.exists():
        return Config()
    path = DEFAULT if path is None else path
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; check --config and $WEIR_CONFIG") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: found bytes that are not UTF-8; save the file as UTF-8") from error
    findings = Findings()
    config = _checked(_document(text, path), str(path), locate(text), findings)
    try:
        findings.raise_any()
    except CatalogueError as error:
        raise ConfigError(str(error)) from None
    assert config is not None
    return config


def read_secret(variable: str | None, file: str | None, of: str) -> str | None:
    """The secret in the environment variable or the file; None where neither is named.

    Raises ConfigError, never with the secret in its text, where it is not there or empty; `of` says whose it is.
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
    for name, value in document.items():
        if name not in _CHECKS:
            findings.place(file, lines.line((name,)), name, Text("an unknown table"), choice(name, _CHECKS))
        elif not isinstance(value, dict):
            findings.place(file, lines.line((name,)), name, value, f"a table: write [{name}]")
        else:
            kind, check = _CHECKS[name]
            public = _without_secrets(value, (), Entry(value, file, lines, (name,), name), findings)
            entry = Entry(public, file, lines, (name,), name)
            repaired = conform(entry, kind, findings)
            if repaired is None:
                continue
            parts[name] = msgspec.convert(_absolute(repaired, Path(file).absolute().parent), kind)
            for field, found, expected in check(parts[name]):
                findings.add(entry, field, found, expected)
    return Config(**parts)


def _without_secrets(value: Any, place: Place, entry: Entry[dict[str, Any]], findings: Findings) -> Any:
    """The value without fields that hold a secret; those are findings that do not show it."""
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
    if isinstance(value, list):
        return [_absolute(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: str(folder / inner)
        if name in _PATHS and isinstance(inner, str) and inner not in ("-", "")
        else _absolute(inner, folder)
        for name, inner in value.items()
    }


def _outbox_problems(outbox: Outbox) -> Iterator[Problem]:
    for name, least, most in (
        ("attempts", 1, 1000), ("first_delay_s", 1, 3600), ("longest_delay_s", 1, 86_400), ("workers", 1, 256),
        ("keep_days", 0, 36_500),
    ):  # fmt: skip
        yield from _within((name,), getattr(outbox, name), least, most)
    names = [FILE]
    named = [("files", at, one.name) for at, one in enumerate(outbox.files)]
    named += [("webhooks", at, hook.name) for at, hook in enumerate(outbox.webhooks)]
    for table, at, name in named:
        if name in (*names, EMAIL, ""):
            yield (table, at, "name"), name, "a name of its own, other than file and email"
        names.append(name)
    names += [EMAIL] if outbox.email is not None else []
    for at, hook in enumerate(outbox.webhooks):
        yield from _webhook_problems(("webhooks", at), hook)
    if outbox.email is not None:
        yield from _email_problems(outbox.email)
    for at, route in enumerate(outbox.routes):
        if not route.to:
            yield ("routes", at, "to"), route.to, "at least one destination"
        for place, name in enumerate(route.to):
            if name not in names:
                yield ("routes", at, "to", place), name, choice(name, names, "a destination: one of")
        if route.channels and route.actions and "notify" not in route.actions:
            yield ("routes", at, "channels"), route.channels, "no channels: only notify has them"


def _webhook_problems(place: Place, hook: WebhookDestination) -> Iterator[Problem]:
    if hook.url is not None and (wrong := url_problem(hook.url)):
        yield (*place, "url"), Text("what messages cannot be posted to"), wrong
    if (hook.secret_env is None) == (hook.secret_file is None):
        found = NOTHING if hook.secret_env is None else Text("both secret_env and secret_file")
        yield (*place, "secret_env"), found, "one of secret_env and secret_file: messages are signed"
    yield from _within((*place, "timeout_s"), hook.timeout_s, 1, 300)
    yield from _network_problems((*place, "allow"), hook.allow)


def _email_problems(email: Email) -> Iterator[Problem]:
    given = email.password_env is not None or email.password_file is not None
    if email.password_env is not None and email.password_file is not None:
        yield ("email", "password_env"), Text("both password_env and password_file"), "one of them"
    if given != (email.user is not None):
        yield ("email", "user"), NOTHING if given else email.user, "user and password together, or neither"
    if given and email.security == "none":
        yield ("email", "security"), email.security, "starttls or tls: a password does not go out in the clear"
    if email.port is not None:
        yield from _within(("email", "port"), email.port, 1, 65_535)
    for place, address in (
        (("email", "sender"), email.sender),
        *((("email", "to", i), a) for i, a in enumerate(email.to)),
    ):
        if "@" not in address.strip("@") or any(c.isspace() for c in address):
            yield place, address, "a mail address such as weir@example.com"
    yield from _within(("email", "timeout_s"), email.timeout_s, 1, 300)
    yield from _network_problems(("email", "allow"), email.allow)


def _clickhouse_problems(clickhouse: ClickHouse) -> Iterator[Problem]:
    server = clickhouse.url is not None
    if clickhouse.url is not None and (wrong := url_problem(clickhouse.url)):
        yield ("url",), Text("what is no address of a server"), wrong.replace("example.com/weir", "example.com:8443")
        return
    if server and clickhouse.path is not None:
        yield ("path",), clickhouse.path, "url or path, not both: a server, or the embedded engine"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", clickhouse.database):
        yield ("database",), clickhouse.database, "letters, digits and underscores"
    if clickhouse.password_env is not None and clickhouse.password_file is not None:
        yield ("password_env",), Text("both password_env and password_file"), "one of them"
    given = clickhouse.password_env is not None or clickhouse.password_file is not None
    if given and clickhouse.user is None:
        yield ("user",), NOTHING, "the user of the password"
    for name in ("user", "ca_file"):
        if getattr(clickhouse, name) is not None and not server:
            yield (name,), getattr(clickhouse, name), "no such field without url: the embedded engine has no users"
    if clickhouse.url is not None and given:
        parts = urlsplit(clickhouse.url)
        if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            yield ("url",), clickhouse.url, "an https URL: a password does not go out in the clear"
    for name, most in (("connect_timeout_s", 300), ("timeout_s", 86_400), ("patience_s", 86_400)):
        yield from _within((name,), getattr(clickhouse, name), 0 if name == "patience_s" else 1, most)


def _within(place: Place, found: int, least: int, most: int) -> Iterator[Problem]:
    if not least <= found <= most:
        yield place, found, f"{least} to {most}"


def _network_problems(place: Place, allow: tuple[str, ...]) -> Iterator[Problem]:
    for at, network in enumerate(allow):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield (*place, at), network, "a network such as 10.1.0.0/16, or an address"


_CHECKS: Final[dict[str, tuple[type[msgspec.Struct], Callable[[Any], Iterator[Problem]]]]] = {
    "outbox": (Outbox, _outbox_problems),
    "clickhouse": (ClickHouse, _clickhouse_problems),
}
