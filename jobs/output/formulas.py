"""Texts that a spreadsheet would evaluate as formulas, in every CSV that Weir writes.

A spreadsheet evaluates a cell that begins with =, +, - or @. Some programs take the full-width and small forms of these
signs for them, and skip white space and invisible characters before them. An apostrophe in front makes a cell a text.
"""

from __future__ import annotations

import re
from typing import Final

# For Rust's regular expressions (Polars) and Python's alike: spaces, controls and invisible characters, then a sign;
# or a tab or line break at the very beginning, which some programs drop before they look at the next cell.
_INVISIBLE: Final = (
    r"\x00-\x20\x{7f}-\x{a0}\x{ad}\x{1680}\x{180e}\x{2000}-\x{200f}\x{2028}-\x{202f}\x{205f}-\x{206f}\x{3000}\x{feff}"
)
_SIGNS: Final = r"=+\-@\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}\x{fe66}\x{fe62}\x{fe63}\x{fe6b}\x{2212}"
FORMULA: Final = rf"^(?:[\t\r\n]|[{_INVISIBLE}]*[{_SIGNS}])"

_FORMULA: Final = re.compile(re.sub(r"\\x\{([0-9a-f]+)\}", lambda code: f"\\u{int(code[1], 16):04x}", FORMULA))


def defused(text: str) -> str:
    """Return the text, with an apostrophe in front if a spreadsheet would evaluate it as a formula."""
    return f"'{text}" if _FORMULA.match(text) else text
