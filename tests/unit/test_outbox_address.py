"""Addresses that messages may go to: public ones, and those of allowed networks, whatever form they are written in."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from pipeline.outbox.address import RefusedError, is_public, networks, resolve

REFUSED = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_addresses_that_are_not_public_are_refused(text: str) -> None:
    """Private, loopback, link-local, reserved and multicast addresses, also inside IPv6 ones."""
    assert not is_public(ipaddress.ip_address(text))
    with pytest.raises(RefusedError, match="no public address"):
        resolve(text, 443, ())


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_taken(text: str) -> None:
    """Public addresses need no leave, and are not marked as allowed: plain http does not go there."""
    assert is_public(ipaddress.ip_address(text))
    assert not resolve(text, 443, networks(["10.0.0.0/8"])).allowed


@pytest.mark.parametrize("text", ["127.0.0.1", "::ffff:127.0.0.1", "2130706433", "0x7f.1"])
def test_an_allowed_network_allows_all_forms_of_an_address(text: str) -> None:
    """Whichever way an address is written, it is judged by what it is."""
    assert resolve(text, 80, networks(["127.0.0.0/8"])).allowed
    with pytest.raises(RefusedError):
        resolve(text, 80, networks(["10.0.0.0/8"]))


def test_one_private_address_among_several_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a public and a private address is refused: the connection might go to either."""

    def answers(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    with pytest.raises(RefusedError, match=r"10\.0\.0\.1"):
        resolve("both.example", 443, ())
