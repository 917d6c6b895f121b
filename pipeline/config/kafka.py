"""[kafka]: brokers, security and topics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal

from pipeline.catalogue.findings import NOTHING, Text
from pipeline.config.table import ConfigTable, PathText, Problem, host_and_port, is_loopback, not_both, within

_NAME: Final = re.compile(r"[A-Za-z0-9._-]*")
_SMALLEST_OF_WORKERS: Final = 900_000
_LONGEST: Final = 200  # Kafka allows 249 characters, and Faust appends a suffix


class Kafka(ConfigTable, frozen=True):
    """Brokers, security and topics.

    `servers` is a list of host:port, or one text separated by commas. With "tls" and "sasl_tls" the connection is
    encrypted, and the certificate of the broker is verified against `ca_file` (default: the system's). `cert_file` with
    `key_file` (PEM) is the client certificate. With "sasl" and "sasl_tls", user and password authenticate the client.
    `partitions` must not change once there is a journal.
    """

    servers: tuple[str, ...] | str = "127.0.0.1:9092"
    prefix: str = "weir."
    partitions: int = 8
    raw_partitions: int | None = None  # None: as many as `partitions`
    replication: int = 1
    security: Literal["plain", "tls", "sasl", "sasl_tls"] = "plain"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    user: str | None = None
    password_env: str | None = None
    password_file: PathText | None = None
    ca_file: PathText | None = None
    cert_file: PathText | None = None
    key_file: PathText | None = None  # None: the key is in cert_file
    key_password_env: str | None = None
    key_password_file: PathText | None = None
    session_timeout_s: int = 10
    limit_bytes: int = 900_000  # largest size of a message that Weir makes

    @property
    def worker_limit_bytes(self) -> int:
        """The largest size of a message that a worker makes.

        It is no smaller than the default of `limit_bytes`, so that a rejected record with its raw bytes fits.
        """
        return max(self.limit_bytes, _SMALLEST_OF_WORKERS)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers, each as host:port."""
        given = self.servers.split(",") if isinstance(self.servers, str) else self.servers
        return tuple(address.strip() for address in given)

    @property
    def raw(self) -> int:
        """The number of partitions of usage.raw."""
        return self.partitions if self.raw_partitions is None else self.raw_partitions

    @property
    def encrypted(self) -> bool:
        """True if connections use TLS."""
        return self.security in ("tls", "sasl_tls")

    @property
    def sasl(self) -> bool:
        """True if the client authenticates with user and password."""
        return self.security in ("sasl", "sasl_tls")


def kafka_problems(kafka: Kafka) -> Iterator[Problem]:
    """Yield the problems of [kafka] that its types do not exclude."""
    places = [("servers",)] if isinstance(kafka.servers, str) else [("servers", at) for at in range(len(kafka.servers))]
    if not kafka.addresses:
        yield ("servers",), kafka.servers, "at least one broker, such as 127.0.0.1:9092"
    for at, address in enumerate(kafka.addresses):
        if host_and_port(address) is None:
            yield places[at % len(places)], address, "host:port such as 127.0.0.1:9092"
    if not is_name(kafka.prefix):
        yield ("prefix",), kafka.prefix, f"at most {_LONGEST} letters, digits, dots, - and _"
    yield from within(("partitions",), kafka.partitions, 1, 1000)
    yield from within(("raw_partitions",), kafka.raw, 1, 1000)
    yield from within(("replication",), kafka.replication, 1, 15)
    yield from within(("session_timeout_s",), kafka.session_timeout_s, 1, 300)
    yield from within(("limit_bytes",), kafka.limit_bytes, 50_000, 16 << 20)
    yield from _sasl_problems(kafka)
    yield from _tls_problems(kafka)


def is_name(text: str) -> bool:
    """Return whether names of topics and groups may begin with this text."""
    return _NAME.fullmatch(text) is not None and len(text) <= _LONGEST


def _sasl_problems(kafka: Kafka) -> Iterator[Problem]:
    yield from not_both(kafka, "password")
    given = kafka.password_env is not None or kafka.password_file is not None
    if not kafka.sasl:
        for name in ("user", "password_env", "password_file"):
            if getattr(kafka, name) is not None:
                yield (name,), getattr(kafka, name), 'no such field without security "sasl" or "sasl_tls"'
        return
    if kafka.user is None:
        yield ("user",), NOTHING, "the user that the brokers know"
    if not given:
        yield ("password_env",), NOTHING, "one of password_env and password_file"
    places = [host_and_port(address) for address in kafka.addresses]
    if not kafka.encrypted and not all(is_loopback(place[0]) for place in places if place is not None):
        yield ("security",), kafka.security, '"sasl_tls": a password does not go out in the clear'


def _tls_problems(kafka: Kafka) -> Iterator[Problem]:
    yield from not_both(kafka, "key_password")
    if not kafka.encrypted:
        for name in ("ca_file", "cert_file", "key_file", "key_password_env", "key_password_file"):
            if getattr(kafka, name) is not None:
                yield (name,), getattr(kafka, name), 'no such field without security "tls" or "sasl_tls"'
    elif kafka.cert_file is None:
        for name in ("key_file", "key_password_env", "key_password_file"):
            if getattr(kafka, name) is not None:
                yield (name,), Text("a key without its certificate"), "cert_file as well"
