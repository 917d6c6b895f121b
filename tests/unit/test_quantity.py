"""Quantities of plans as text with a unit."""

from __future__ import annotations

import pytest

from rating.errors import PlanError
from rating.units.quantity import MAX_UNITS, parse_quantity


@pytest.mark.parametrize(
    ("quantity", "service", "base", "units"),
    [
        ("30 MB", "data", 1024, 30 * 2**20),
        ("30 MB", "data", 1000, 30_000_000),
        ("30MiB", "data", 1000, 30 * 2**20),
        ("1.5 gb", "data", 1024, 3 * 2**29),
        ("0.5 KB", "data", 1024, 512),
        (2_000_000_000, "data", 1024, 2_000_000_000),
        ("17", "data", 1024, 17),
        (0, "voice", 1024, 0),
        ("90 s", "voice", 1024, 90),
        ("2 min", "voice", 1024, 120),
        ("1.5 h", "voice", 1024, 5400),
        ("100 sms", "sms", 1024, 100),
        ("10", "sms", 1000, 10),
        (MAX_UNITS, "data", 1000, MAX_UNITS),
    ],
)
def test_parse_quantity(quantity: str | int, service: str, base: int, units: int) -> None:
    """Units are read exactly, KB to PB by the plan's base and KiB to PiB by 1024."""
    assert units == parse_quantity(quantity, service, base)


@pytest.mark.parametrize(
    ("quantity", "service"),
    [
        *(("-1 MB", "data"), (-1, "data"), ("1e3", "data"), ("", "data"), ("MB", "data"), ("30 Mb/s", "data")),
        *(("1.0001 KB", "data"), ("NaN", "data"), (True, "data"), (1.5, "data"), (None, "data"), ("2 min", "data")),
        *(("5 MB", "sms"), ("0.5", "sms"), ("3 MB", "voice"), ("1 day 2 h", "voice"), ("9" * 10**6, "data")),
        (MAX_UNITS + 1, "data"),
        ("1000 PB", "data"),
    ],
)
def test_parse_quantity_refuses(quantity: str | int, service: str) -> None:
    """What is no whole number of the service's units is refused, with what would be right."""
    with pytest.raises(PlanError, match=r"^found .*; expected ") as refusal:
        parse_quantity(quantity, service, 1024)
    assert len(str(refusal.value)) < 200


def test_parse_quantity_knows_its_services_and_bases() -> None:
    """A service or a base that there is not is refused."""
    with pytest.raises(PlanError, match="found service 'fax'"):
        parse_quantity(1, "fax", 1024)
    with pytest.raises(PlanError, match="found data_base 512"):
        parse_quantity(1, "data", 512)
