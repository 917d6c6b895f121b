"""Check digits of ICCIDs and EIDs."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from rating.catalogue.check_digits import (
    eid_digits,
    eid_valid,
    eid_valid_column,
    iccid_valid,
    iccid_valid_column,
    luhn_digit,
    luhn_valid,
    luhn_valid_column,
)

# Published examples: the classic Luhn number, and EIDs from an eSIM vendor's note on how to verify one.
_EIDS = [
    "89034011560010000000000000000121",
    "89001012012341234012345678901224",
    "89001567010203040506070809101152",
    "89044011112233441122334411223321",
]


def test_luhn_of_a_published_number() -> None:
    """79927398713 is the number that Luhn's method is explained with."""
    assert "3" == luhn_digit("7992739871")
    assert luhn_valid("79927398713")
    assert not luhn_valid("79927398712")


def test_published_eids_are_valid() -> None:
    """EIDs that a vendor prints as valid pass, one by one and as a column."""
    assert [True] * 4 == [eid_valid(eid) for eid in _EIDS]
    assert [True] * 4 == eid_valid_column(pl.Series(_EIDS)).to_list()


def test_an_eid_of_another_length_is_not_valid() -> None:
    """31 or 33 digits, letters and null are no EID, whatever their remainder."""
    column = pl.Series(["1", _EIDS[0] + "0", _EIDS[0][:-1] + "x", None, _EIDS[0][:-1] + "2"])
    assert [False, False, False, None, False] == eid_valid_column(column).to_list()


@given(st.text("0123456789", min_size=30, max_size=30))
def test_eid_check_digits_make_an_eid(body: str) -> None:
    """30 digits and their check digits are valid; with the check digits off by one they are not."""
    digits = eid_digits(body)
    assert 2 == len(digits)
    assert eid_valid(body + digits)
    assert not eid_valid(body + f"{(int(digits) + 1) % 100:02d}")


@given(st.lists(st.none() | st.text("0123456789", max_size=33) | st.text(max_size=4)))
def test_column_says_what_the_single_checks_say(numbers: list[str | None]) -> None:
    """The checks over a column agree with the checks of one value, row by row."""
    column = pl.Series("iccid", numbers, dtype=pl.String)
    assert [None if n is None else luhn_valid(n) and len(n) <= 32 for n in numbers] == luhn_valid_column(
        column
    ).to_list()
    assert [None if n is None else iccid_valid(n) for n in numbers] == iccid_valid_column(column).to_list()
    assert [None if n is None else eid_valid(n) for n in numbers] == eid_valid_column(column).to_list()


@given(st.text("0123456789", min_size=18, max_size=18), st.integers(0, 17), st.integers(1, 9))
def test_one_wrong_digit_is_found(body: str, place: int, change: int) -> None:
    """Luhn finds every single wrong digit of a 19-digit ICCID."""
    good = body + luhn_digit(body)
    wrong = good[:place] + str((int(good[place]) + change) % 10) + good[place + 1 :]
    assert iccid_valid(good)
    assert not iccid_valid(wrong)


def test_twenty_digits_are_not_checked() -> None:
    """A 20-digit ICCID may have its check digit last, before a filler, or nowhere: all three are good."""
    body = "898600000000000001"
    with_filler = body + luhn_digit(body) + "7"
    whole = "8986000000000000012"
    assert [True, True, True] == [iccid_valid(n) for n in (with_filler, whole + luhn_digit(whole), whole + "0")]


def test_an_iccid_of_another_length_is_not_valid() -> None:
    """18 and 21 digits are no ICCID, though their last digit may check."""
    assert [False, False] == [iccid_valid(b + luhn_digit(b)) for b in ("8" * 17, "8" * 20)]
