"""The mapping files that ship with Weir. Imports nothing heavy, because completion asks for their names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_DIRECTORY: Final = Path(__file__).resolve().parents[2] / "schemas" / "feeds"


def ready_feeds() -> dict[str, Path]:
    """The files of the ready mappings by name, sorted."""
    return dict(sorted((path.stem, path) for path in _DIRECTORY.glob("*.toml")))
