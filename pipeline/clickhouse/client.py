"""Client for ClickHouse: a server at a URL, or the embedded engine in this process (chdb).

A process can open only one path with the embedded engine, and only one process can open a path. A lock in the directory
enforces the latter.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from pipeline.clickhouse.reading import require_reading
from pipeline.config import ClickHouse, read_secret
from pipeline.extras import Extra, require_extra
from pipeline.store.directory import storage_errors
from pipeline.store.folders import LOCK, lock_directory, make_folder
from rating.errors import ConfigError, LockedError, UsageError, WeirError, WorldError

T = TypeVar("T")

ENGINE: Final = "engine"  # folder in the path of an embedded engine that belongs to ClickHouse
FOLDER: Final = "clickhouse"  # folder in the data directory, used if the configuration names no path

# Temporary error codes: time-outs, memory, connections, too many queries or parts, full or read-only disk.
_PASSING: Final = frozenset(
    (3, 32, 74, 75, 159, 160, 198, 201, 202, 203, 209, 210, 236, 241, 242, 243, 252, 279, 394, 425, 439, 999)
)
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 10.0

# With these settings an insert makes one part per partition in each table that it reaches: it is written as one block,
# synchronously, by one thread.
WRITE_SETTINGS: Final[Mapping[str, Any]] = {
    "async_insert": 0,
    "max_insert_threads": 1,
    "max_insert_block_size": 1 << 30,
    "min_insert_block_size_rows": 1 << 30,
    "min_insert_block_size_bytes": 1 << 40,
    "max_partitions_per_insert_block": 0,
    "parallel_view_processing": 0,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "input_format_null_as_default": 0,
}


class PassingError(WorldError):
    """Raised if ClickHouse is unavailable or busy. The same call may succeed later."""


class Client:
    """Client for one database; a context manager. Only one thread may use it at a time.

    Every method raises PassingError if ClickHouse is unavailable or busy, and WorldError if it rejects the statement.
    `embedded` is True if the engine is in this process.
    """

    def __init__(self, driver: Any, database: str, where: str, *, embedded: bool, release: Callable[[], None]) -> None:
        self._driver = driver
        self._release = release
        self.database = database
        self.where = where
        self.embedded = embedded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. An embedded engine releases its path when its last client closes."""
        self._driver.close()
        self._release()

    def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return its rows. The engine binds `parameters` to {name:Type} in the statement."""
        return self._asked(lambda: [tuple(row) for row in self._driver.query(sql, parameters).result_rows])

    def arrow(self, sql: str, *, read_only: bool = False) -> pa.Table:
        """Run a query and return its rows as an Arrow table, with text columns as strings.

        With `read_only` any statement that changes something is rejected, from now on for this connection, and a query
        that reaches files or the network, to read or to write, raises UsageError.
        """
        if read_only:
            require_reading(self.rows, sql)
        settings: dict[str, Any] = {"readonly": 1} if read_only else {}
        return self._asked(lambda: self._driver.query_arrow(sql, settings=settings, use_strings=True))

    def command(self, sql: str, settings: Mapping[str, Any] | None = None, *, query_id: str | None = None) -> None:
        """Run a statement that changes something. It is complete on return."""
        self._asked(lambda: self._driver.command(sql, settings=self._settings(settings, query_id)))

    def insert(
        self, table: str, rows: pa.Table, settings: Mapping[str, Any] | None = None, *, query_id: str | None = None
    ) -> None:
        """Insert the rows as one block, with WRITE_SETTINGS. On return they are in the table and in its views."""
        rows = rows.combine_chunks()
        chosen = self._settings({**WRITE_SETTINGS, **(settings or {})}, query_id)
        self._asked(lambda: self._driver.insert_arrow(table, rows, database=self.database, settings=chosen))

    def _settings(self, settings: Mapping[str, Any] | None, query_id: str | None) -> dict[str, Any]:
        named = {} if query_id is None or self.embedded else {"query_id": f"{query_id}-{uuid.uuid4().hex}"}
        return {**(settings or {}), **named}

    def _asked(self, ask: Callable[[], T]) -> T:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        try:
            return ask()
        except ClickHouseError as failure:
            raise _error(self.where, failure) from failure


def _error(where: str, failure: Exception) -> WorldError:
    from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

    code = getattr(failure, "code", None)
    text = f"{where}: {str(failure).strip()}"
    # Without an error code of the engine, the failure was in the network.
    unreached = isinstance(failure, OperationalError | DatabaseError) and code is None
    if unreached or code in _PASSING:
        return PassingError(f"{text}; check that ClickHouse runs and has room, then give the same command again")
    return WorldError(f"{text}; correct what ClickHouse refuses, then give the same command again")


class Patience:
    """Retry policy of a caller: pauses that double, up to `longest_s` in total. `stop` ends a pause at once."""

    def __init__(self, longest_s: float, stop: threading.Event | None = None) -> None:
        self._longest_s = longest_s
        self._stop = stop or threading.Event()
        self._since: float | None = None
        self._pause_s = _FIRST_PAUSE_S

    def wait(self, failure: WorldError) -> None:
        """Pause before another attempt. Raises `failure` if the time is up or `stop` is set."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now + self._pause_s > self._since + self._longest_s or self._stop.wait(self._pause_s):
            raise failure
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


def require_packages(config: ClickHouse) -> None:
    """Raise UsageError, with the extra to install, if `connect` lacks a package for this configuration."""
    needed: tuple[Extra, str, tuple[str, ...]] = ("clickhouse", "a ClickHouse server", ("clickhouse_connect",))
    if config.url is None:
        embedded = "the embedded ClickHouse (a server needs a url in [clickhouse])"
        needed = ("chdb", embedded, ("clickhouse_connect", "chdb"))
    extra, feature, packages = needed
    with require_extra(extra, feature):
        for name in packages:
            if find_spec(name) is None:  # found, not imported: chdb takes a while to load
                raise ModuleNotFoundError(name=name)


def connect(config: ClickHouse, data: Path | None = None, *, patience: Patience | None = None) -> Client:
    """Return a client for the server at `config.url`, else for the embedded engine at `config.path`, else for the
    embedded engine in the folder `clickhouse` of the data directory `data`. Create the database if it does not exist.

    With `patience`, wait for a server that is unavailable. Raises UsageError if the extra that is needed (`clickhouse`
    for a server, `chdb` for the embedded engine) is not installed, or if this process has another path open;
    LockedError if another process has the path open; ConfigError if a secret is missing or there is neither url, path
    nor `data`; WorldError if ClickHouse cannot be reached or rejects the connection. No error shows a secret.
    """
    require_packages(config)
    import clickhouse_connect

    # Without this handler, the library prints its errors next to those of Weir if logging is not set up.
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
    if config.url is None:
        if config.path is None and data is None:
            raise ConfigError("clickhouse: found neither url nor path; give one of them")
        return _embedded(Path(config.path) if config.path is not None else Path(data or "") / FOLDER, config.database)
    patience = patience or Patience(0)
    while True:
        try:
            return _server(clickhouse_connect, config, config.url)
        except PassingError as failure:
            patience.wait(failure)


def _server(library: Any, config: ClickHouse, url: str) -> Client:
    from clickhouse_connect.driver.exceptions import ClickHouseError

    parts = urlsplit(url)
    password = read_secret(config.password_env, config.password_file, "clickhouse")
    secure = parts.scheme == "https"
    try:
        driver = library.get_client(
            host=parts.hostname,
            port=parts.port or (8443 if secure else 8123),
            interface=parts.scheme,
            username=config.user,
            password=password or "",
            ca_cert=config.ca_file,
            verify=True,
            database="default",
            connect_timeout=config.connect_timeout_s,
            send_receive_timeout=config.timeout_s,
            autogenerate_session_id=False,
            compress="lz4",
        )
        try:
            return _prepared(driver, config.database, url, embedded=False, release=lambda: None)
        except BaseException:
            driver.close()
            raise
    except ClickHouseError as failure:
        raise _error(url, failure) from failure


def _prepared(driver: Any, database: str, where: str, *, embedded: bool, release: Callable[[], None]) -> Client:
    # Check first: a user without the right to create databases may use an existing one.
    if not int(driver.command(f"EXISTS DATABASE `{database}`")):
        driver.command(f"CREATE DATABASE IF NOT EXISTS `{database}`")
    driver.database = database
    return Client(driver, database, where, embedded=embedded, release=release)


def _require_own(path: Path) -> None:
    """Raise UsageError if a folder contains anything other than an embedded engine."""
    if path.is_dir() and {one.name for one in path.iterdir()} - {LOCK, ENGINE}:
        raise UsageError(
            f"{path}: found files of something else; expected an empty folder, or that of an embedded ClickHouse: name "
            "another path in [clickhouse]"
        )


class _Held:
    """The path that the embedded engine of this process has open, its lock, and the number of its clients."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.path: Path | None = None
        self.lock = -1
        self.clients = 0

    def take(self, path: Path) -> None:
        with self.guard:
            if self.clients and path != self.path:
                raise UsageError(
                    f"{path}: this process has the embedded ClickHouse open at {self.path}, and a process opens one; "
                    "close that first, or use a server (url of [clickhouse])"
                )
            if not self.clients:
                with storage_errors(path, "open the embedded ClickHouse"):
                    _require_own(path)
                    make_folder(path)
                    try:
                        self.lock = lock_directory(path)
                    except LockedError as held:
                        raise LockedError(
                            f"{held}; several processes at once need a server (url of [clickhouse])"
                        ) from held
                self.path = path
            self.clients += 1

    def give_back(self) -> None:
        with self.guard:
            self.clients -= 1
            if not self.clients:
                os.close(self.lock)


_held = _Held()


def _embedded(path: Path, database: str) -> Client:
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError

    path = path.absolute()
    _held.take(path)
    released = False

    def release() -> None:
        nonlocal released
        if not released:
            released = True
            _held.give_back()

    try:
        driver = clickhouse_connect.get_client(interface="chdb", path=str(path / ENGINE))
        return _prepared(driver, database, str(path), embedded=True, release=release)
    except ClickHouseError as failure:
        release()
        raise _error(str(path), failure) from failure
    except BaseException as failure:
        release()
        if isinstance(failure, WeirError) or not isinstance(failure, RuntimeError):
            raise
        raise WorldError(f"{path}: the embedded ClickHouse cannot be opened: {failure}; check the disk") from failure
