"""Catalogues in a few words, as files write them."""

from __future__ import annotations

from typing import Final

from tests.scenarios.stories import Happening, Scenario

MB: Final = 1 << 20


def account(name: str, **fields: str) -> str:
    """An account as a catalogue writes it."""
    return table("accounts", id=f'"{name}"', **{key: f'"{value}"' for key, value in fields.items()})


def solo(name: str, allowance: str = "10 MB", price: str = "0.10") -> str:
    """A plan with data at a flat price for each MB beyond the allowance, and messages."""
    return f"""
[[plans]]
id = "{name}"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2024-01-01
[[plans.versions.rates]]
service = "data"
allowance = "{allowance}"
price = {{ model = "flat", price = "{price}", per = "1 MB" }}
[[plans.versions.rates]]
service = "sms"
price = {{ model = "flat", price = "0.05" }}
"""


def card(iccid: str, account: str, plan: str, **fields: str) -> str:
    """A card; fields are as TOML writes them."""
    return table("cards", iccid=f'"{iccid}"', account=f'"{account}"', plan=f'"{plan}"', **fields)


def rule(name: str, owner: str, trigger: str, actions: str, **fields: str) -> str:
    """A rule; fields are as TOML writes them."""
    return table("rules", id=f'"{name}"', owner=f'"{owner}"', trigger=f'"{trigger}"', actions=f"[{actions}]", **fields)


TELL: Final = '{ sequence = 1, type = "notify", by = ["system"] }'


def table(section: str, **fields: str) -> str:
    """One entry of a section; fields are as TOML writes them."""
    return f"\n[[{section}]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def told(name: str, number: int, *happenings: Happening, **expects: object) -> Scenario:
    """A scenario, with what must come of it."""
    return Scenario(name, number, happenings, expects)
