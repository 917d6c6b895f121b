"""[worker]: settings of a streaming worker and of its HTTP API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from pipeline.catalogue.addresses import url_problem
from pipeline.catalogue.findings import NOTHING, Text
from pipeline.config.kafka import is_name
from pipeline.config.table import ConfigTable, PathText, Problem, not_both, within

EVERY_ACCOUNT: Final = "*"
_MOST_ORIGINS: Final = 1000  # the state of each partition knows how far each of them was packed


class Token(ConfigTable, frozen=True):
    """A token for reading live state, and the accounts that its bearer may see; "*" means all accounts."""

    accounts: tuple[str, ...] | str
    token_env: str | None = None
    token_file: PathText | None = None


class Worker(ConfigTable, frozen=True):
    """Settings of a worker. All workers of one group have the same `app`."""

    app: str = "weir"
    history: PathText = "weir-history"
    clickhouse: bool = False  # True: also load results into the ClickHouse of [clickhouse]
    feeds: tuple[PathText, ...] = ()  # mapping files, in addition to the built-in ones
    # The topics that `weir pack` packs from, and the number of their partitions.
    origins: dict[str, int] = msgspec.field(default_factory=dict)
    skip_lost_usage: bool = False  # True: skip messages that usage.raw dropped before they were mediated
    base_records: int = 5_000_000  # a checkpoint of a partition is due after so many records,
    base_every_s: int = 600  # or after so many seconds
    land_rows: int = 500_000
    land_every_s: int = 5
    tick_s: int = 60  # 0: no ticks; the clock advances only with arriving data
    standby: int = 0
    web_host: str = "127.0.0.1"
    web_port: int = 6066
    advertised_url: str | None = None  # URL at which other workers reach this one; None: web_host and web_port
    tokens: tuple[Token, ...] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "text"


def worker_problems(worker: Worker) -> Iterator[Problem]:
    """Yield the problems of [worker] that its types do not exclude."""
    if not worker.app or not is_name(worker.app):
        yield ("app",), worker.app, "letters, digits, dots, - and _"
    for name in ("history", "web_host"):
        if not getattr(worker, name).strip():
            yield (name,), getattr(worker, name), "a path" if name == "history" else "an address such as 127.0.0.1"
    for name, least, most in (
        ("base_records", 1, 10**12), ("base_every_s", 1, 86_400 * 7), ("land_rows", 1, 10**9),
        ("land_every_s", 0, 3600), ("tick_s", 0, 86_400), ("standby", 0, 10), ("web_port", 1, 65_535),
    ):  # fmt: skip
        yield from within((name,), getattr(worker, name), least, most)
    for at, feed in enumerate(worker.feeds):
        if not feed.endswith(".toml"):
            yield ("feeds", at), feed, "the path of a mapping file, .toml"
    yield from _origin_problems(worker.origins)
    if worker.advertised_url is not None and (wrong := url_problem(worker.advertised_url)):
        right = wrong.replace("https://example.com/weir", "http://10.0.0.7:6066")
        yield ("advertised_url",), Text("what no worker can be reached at"), right
    for at, token in enumerate(worker.tokens):
        yield from not_both(token, "token", ("tokens", at))
        if token.token_env is None and token.token_file is None:
            yield ("tokens", at, "token_env"), NOTHING, "one of token_env and token_file"
        if not token.accounts or (isinstance(token.accounts, str) and token.accounts != EVERY_ACCOUNT):
            yield ("tokens", at, "accounts"), token.accounts, 'account ids in an array, or "*" for all of them'


def _origin_problems(origins: dict[str, int]) -> Iterator[Problem]:
    for topic, partitions in origins.items():
        if not topic or not is_name(topic):
            yield ("origins", topic), topic, "the name of a topic"
        yield from within(("origins", topic), partitions, 1, _MOST_ORIGINS)
    if sum(origins.values()) > _MOST_ORIGINS:
        yield ("origins",), sum(origins.values()), f"at most {_MOST_ORIGINS} partitions of all topics together"
