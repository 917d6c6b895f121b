"""The version of Weir, which pyproject.toml repeats."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
