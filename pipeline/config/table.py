"""Shared code of the configuration parts: the base of tables, the type of a problem, and common checks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec

from pipeline.catalogue.findings import Text
from pipeline.catalogue.lines import Path as Place

PathText = str  # a path, relative to the folder of the configuration file
Problem = tuple[Place, object, str]  # path of the field in the part, what was found, what is expected

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class ConfigTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """A table of the configuration file. Unknown fields are rejected."""


def within(place: Place, found: int, least: int, most: int) -> Iterator[Problem]:
    """Yield a problem if `found` is not from `least` to `most`."""
    if not least <= found <= most:
        yield place, found, f"{least} to {most}"


def not_both(table: msgspec.Struct, name: str, place: Place = ()) -> Iterator[Problem]:
    """Yield a problem if a secret is given twice, as `name`_env and as `name`_file."""
    if getattr(table, f"{name}_env") is not None and getattr(table, f"{name}_file") is not None:
        yield (*place, f"{name}_env"), Text(f"both {name}_env and {name}_file"), "one of them"


def network_problems(place: Place, allow: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a problem for each item that is not a network."""
    for at, network in enumerate(allow):
        try:
            ipaddress.ip_network(network)
        except ValueError:
            yield (*place, at), network, "a network such as 10.1.0.0/16, or an address"


def is_loopback(host: str | None) -> bool:
    """Return whether the host is this machine."""
    return host in LOOPBACK


def host_and_port(address: str) -> tuple[str, int] | None:
    """Return host and port of `host:port` ([::1]:9092 for IPv6); None if the text is no such address."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or not port or parts.netloc != address or "@" in address or any(c.isspace() for c in address):
        return None
    return host, port
