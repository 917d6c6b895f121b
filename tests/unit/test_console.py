"""Texts of users reach the terminal as they are."""

from __future__ import annotations

import pytest
from rich.console import Console

from jobs.output.console import err, out


@pytest.mark.parametrize("console", [out, err], ids=["out", "err"])
def test_names_are_no_markup(console: Console) -> None:
    """A name that looks like markup of Rich or like the name of an emoji is printed unchanged."""
    with console.capture() as captured:
        console.print("pool [bold]north[/bold] :car:", highlight=False)
    assert captured.get() == "pool [bold]north[/bold] :car:\n"
