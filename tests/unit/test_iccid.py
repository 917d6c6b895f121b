"""Check digits of ICCIDs and EIDs."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from rating.catalogue.check_digits import (
    eid_valid_column,
    luhn_digit,
    luhn_valid_column,
)

# Published examples: the classic Luhn number, and EIDs from an eSIM vendor's note on how to verify one.
_EIDS = [
    "89034011560010000000000000000121",
    "89001012012341234012345678901224",
    "89001567010203040506070809101152",
    "89044011112233441122334411223321",
]


def luhn(*numbers: str | None) -> list[bool | None]:
    """Whether the last digit of each number checks."""
    return luhn_valid_column(pl.Series("iccid", numbers, dtype=pl.String)).to_list()


def eids(*numbers: str | None) -> list[bool | None]:
    """Whether each number is an EID."""
    return eid_valid_column(pl.Series("eid", numbers, dtype=pl.String)).to_list()


def is_number(text: str) -> bool:
    """Whether a text is digits of ASCII."""
    return text.isascii() and text.isdigit()


def test_luhn_of_a_published_number() -> None:
    """79927398713 is the number that Luhn's method is explained with."""
    assert "3" == luhn_digit("7992739871")
    assert luhn("79927398713", "79927398712") == [True, False]


def test_published_eids_are_valid() -> None:
    """EIDs that a vendor prints as valid pass."""
    assert eids(*_EIDS) == [True] * 4


def test_an_eid_of_another_length_is_not_valid() -> None:
    """31 or 33 digits, letters and null are no EID, whatever their remainder."""
    found = eids("1", _EIDS[0] + "0", _EIDS[0][:-1] + "x", None, _EIDS[0][:-1] + "2")
    assert found == [False, False, False, None, False]


@given(st.text("0123456789", min_size=30, max_size=30))
def test_eid_check_digits_make_an_eid(body: str) -> None:
    """30 digits and their check digits are valid; with the check digits off by one they are not."""
    digits = 98 - int(body) * 100 % 97
    assert eids(body + f"{digits:02d}", body + f"{(digits + 1) % 100:02d}") == [True, False]


@given(st.lists(st.none() | st.text("0123456789", max_size=33) | st.text(max_size=4)))
def test_a_column_is_checked_row_by_row(numbers: list[str | None]) -> None:
    """Each value is checked for itself, as the definitions of both checks have it; null stays null."""
    expected = [
        None if n is None else 2 <= len(n) <= 32 and is_number(n) and luhn_digit(n[:-1]) == n[-1] for n in numbers
    ]
    assert luhn(*numbers) == expected
    assert eids(*numbers) == [
        None if n is None else len(n) == 32 and is_number(n) and int(n) % 97 == 1 for n in numbers
    ]


@given(st.text("0123456789", min_size=18, max_size=18), st.integers(0, 17), st.integers(1, 9))
def test_one_wrong_digit_is_found(body: str, place: int, change: int) -> None:
    """Luhn finds every single wrong digit of a 19-digit ICCID."""
    good = body + luhn_digit(body)
    wrong = good[:place] + str((int(good[place]) + change) % 10) + good[place + 1 :]
    assert luhn(good, wrong) == [True, False]
