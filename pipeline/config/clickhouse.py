"""[clickhouse]: the connection to ClickHouse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pipeline.catalogue.addresses import url_problem
from pipeline.catalogue.findings import NOTHING, Text
from pipeline.config.table import ConfigTable, PathText, Problem, is_loopback, not_both, within


class ClickHouse(ConfigTable, frozen=True):
    """The connection to ClickHouse (docs/clickhouse.md): a server at `url`, or the embedded engine at `path`.

    Without either, the engine is embedded in the data directory. With a password, a plain http URL is allowed only for
    this machine. `patience_s` is how long a sink retries while ClickHouse is unavailable.
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


def clickhouse_problems(clickhouse: ClickHouse) -> Iterator[Problem]:
    """Yield the problems of [clickhouse] that its types do not exclude."""
    server = clickhouse.url is not None
    if clickhouse.url is not None and (wrong := url_problem(clickhouse.url)):
        yield ("url",), Text("what is no address of a server"), wrong.replace("example.com/weir", "example.com:8443")
        return
    if server and clickhouse.path is not None:
        yield ("path",), clickhouse.path, "url or path, not both: a server, or the embedded engine"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", clickhouse.database):
        yield ("database",), clickhouse.database, "letters, digits and underscores"
    yield from not_both(clickhouse, "password")
    given = clickhouse.password_env is not None or clickhouse.password_file is not None
    if given and clickhouse.user is None:
        yield ("user",), NOTHING, "the user of the password"
    for name in ("user", "ca_file"):
        if getattr(clickhouse, name) is not None and not server:
            yield (name,), getattr(clickhouse, name), "no such field without url: the embedded engine has no users"
    if clickhouse.url is not None and given:
        parts = urlsplit(clickhouse.url)
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            yield ("url",), clickhouse.url, "an https URL: a password does not go out in the clear"
    for name, most in (("connect_timeout_s", 300), ("timeout_s", 86_400), ("patience_s", 86_400)):
        yield from within((name,), getattr(clickhouse, name), 0 if name == "patience_s" else 1, most)
