"""Escaping of untrusted text, so that it is safe to show on a terminal."""

from __future__ import annotations

import unicodedata

# Unicode categories that can control a terminal or hide text: control, format, surrogate, private use, unassigned, and
# line and paragraph separators.
UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return `text` with every character of UNPRINTABLE escaped as \xNN, \uNNNN or \UNNNNNNNN.

    Text from a feed or a catalogue must not control the terminal, so all output for people passes through here.
    """
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in UNPRINTABLE:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
