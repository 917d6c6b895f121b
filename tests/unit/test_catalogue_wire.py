"""What `catalogue_from_bytes` does with bytes that are no catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalogue import catalogue_from_bytes, catalogue_to_bytes, load_catalogue
from rating.errors import StorageError

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_comes_back() -> None:
    """The example catalogue with its cards is the same after a round trip."""
    catalogue = load_catalogue([*(EXAMPLES / "catalogue").glob("*.toml"), EXAMPLES / "feeds" / "cards.csv"])
    again = catalogue_from_bytes(catalogue_to_bytes(catalogue))
    assert catalogue.plans == again.plans
    assert catalogue.addons == again.addons
    assert catalogue.cards.equals(again.cards)
    assert catalogue_to_bytes(catalogue) == catalogue_to_bytes(again)


def test_how_the_frame_was_put_together_does_not_show() -> None:
    """Cards in one chunk or in many give the same bytes."""
    catalogue = load_catalogue([*(EXAMPLES / "catalogue").glob("*.toml"), EXAMPLES / "feeds" / "cards.csv"])
    rows = catalogue.cards
    pieces = rows[:3].vstack(rows[3:9]).vstack(rows[9:])
    split = type(catalogue)(**{**vars(catalogue), "cards": pieces})
    assert pieces.n_chunks() == 3
    assert catalogue_to_bytes(catalogue) == catalogue_to_bytes(split)


@pytest.mark.parametrize("length", [0, 3, 5, 20, 21, 400, -1])
def test_bytes_that_are_cut_off(length: int) -> None:
    """A cut entry is never taken for a shorter catalogue."""
    data = catalogue_to_bytes(load_catalogue([EXAMPLES / "catalogue" / "accounts.toml"]))
    with pytest.raises(StorageError, match="restore a backup"):
        catalogue_from_bytes(data[:length])


def test_bytes_of_something_else() -> None:
    """Foreign bytes, and damage within, end in a StorageError that says so."""
    data = catalogue_to_bytes(load_catalogue([EXAMPLES / "catalogue" / "accounts.toml"]))
    for wrong in (b"PAR1" * 10, data + b"x", data[:30] + b"\xff" + data[31:]):
        with pytest.raises(StorageError):
            catalogue_from_bytes(wrong)
