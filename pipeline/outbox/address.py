"""Check of the addresses to which messages may go: public ones, and those in networks that the operator allows.

A name is resolved once. Every address is checked, and the connection uses a checked address. So it has no effect if the
name resolves to another address a moment later (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# The tables of Python's `ipaddress` depend on its patch release, and lack some of what IANA calls special purpose.
_SPECIAL: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.88.99.0/24",  # former relays of 6to4
        "::/96",  # IPv4-compatible, deprecated
        "::ffff:0:0:0/96",  # IPv4 translated by the network
        "64:ff9b:1::/48",  # NAT64 within a network
        "100::/63",  # discarded
        "2001::/23",  # protocols, not hosts
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
)


class RefusedError(Exception):
    """Raised if a name resolves to an address to which messages must not go."""


@dataclass(frozen=True)
class Destination:
    """Checked addresses of a host, in the order to try them. `allowed` is True if all are in allowed networks."""

    addresses: tuple[Address, ...]
    allowed: bool


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse networks as the configuration writes them. Raises ValueError if one is not a network."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def resolve(host: str, port: int, allow: Sequence[Network]) -> Destination:
    """Return the addresses of `host`, all checked.

    Raises RefusedError if one of them is neither public nor allowed, OSError if the name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = tuple(dict.fromkeys(_parsed(str(entry[4][0])) for entry in found))
    allowed = [any(one in network for network in allow for one in _forms(address)) for address in addresses]
    for address, fine in zip(addresses, allowed, strict=True):
        if not fine and not is_public(address):
            raise RefusedError(
                f"{host} is at {address}, which is no public address; name its network in `allow` of the destination "
                "if that is meant"
            )
    return Destination(addresses, all(allowed))


def is_public(address: Address) -> bool:
    """Return whether the address is public, that is, reachable on the internet.

    An IPv4 address embedded in an IPv6 address is checked in its place.
    """
    return all(
        one.is_global
        and not (one.is_multicast or one.is_loopback or one.is_link_local or one.is_unspecified)
        and not (isinstance(one, ipaddress.IPv6Address) and one.is_site_local)
        and not (isinstance(one, ipaddress.IPv4Address) and one.is_reserved)
        and not any(one in network for network in _SPECIAL)
        for one in _forms(address)
    )


def _forms(address: Address) -> tuple[Address, ...]:
    """Return the address, or the IPv4 addresses embedded in it: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF),)
    return (address,)


def _parsed(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])
