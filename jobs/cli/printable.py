"""Text from outside that is safe to show on a terminal."""

from __future__ import annotations

import unicodedata

# Unicode categories that can steer a terminal or hide text: control, format, surrogate, private, unassigned, breaks.
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""`text` with every control, format and unassigned character as \xNN, \uNNNN or \UNNNNNNNN.

    Nothing that comes from a feed or a catalogue may steer a terminal, so all output for people passes through here.
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in UNPRINTABLE:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
