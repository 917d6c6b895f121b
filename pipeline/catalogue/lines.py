"""Line numbers of the keys and array items of a TOML document.

The maintained TOML readers (the standard library's, tomlkit) give positions of syntax errors only. This scanner reads
text that `tomllib` has accepted. So it can trust the syntax, and only records where each key path begins.
"""

from __future__ import annotations

import bisect
import re
import tomllib

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"'[^']*'")
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL)


class Lines:
    """The lines at which the key paths of a document begin.

    A path consists of keys and, for array items, indices from 0.
    """

    def __init__(self, lines: dict[Path, int]) -> None:
        self._lines = lines

    def line(self, path: Path) -> int:
        """Return the 1-based line of `path`, or of the nearest enclosing path in the document; 1 if there is none."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 1

    def paths(self) -> frozenset[Path]:
        """Return all paths of the document, including those of the enclosing tables."""
        return frozenset(self._lines)


def locate(text: str) -> Lines:
    """Return the lines of `text`, a document that `tomllib.loads` accepts."""
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [found.start() for found in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._items: dict[Path, int] = {}  # number of tables so far in each array of tables

    def scan(self) -> Lines:
        table: Path = ()
        while self._skip(_BLANK) and self._at < len(self._text):
            if self._text.startswith("[[", self._at):
                table = self._header(2)
            elif self._text[self._at] == "[":
                table = self._header(1)
            else:
                self._pair(table)
        return Lines(self._lines)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Move past `pattern` and return the next character; "" at the end of the text."""
        found = pattern.match(self._text, self._at)
        assert found is not None, f"tomllib accepted what this scanner does not know, at offset {self._at}"
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def _mark(self, path: Path, at: int) -> None:
        line = bisect.bisect_left(self._newlines, at) + 1
        for depth in range(1, len(path) + 1):
            self._lines.setdefault(path[:depth], line)

    def _header(self, brackets: int) -> Path:
        start = self._at
        self._at += brackets
        keys = self._key()
        self._at += brackets
        path: Path = ()
        for place, key in enumerate(keys):
            path = (*path, key)
            last = place == len(keys) - 1
            if last and brackets == 2:
                self._items[path] = self._items.get(path, 0) + 1
            if path in self._items:
                path = (*path, self._items[path] - 1)
        self._mark(path, start)
        return path

    def _key(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            start = self._at
            quote = self._text[start]
            self._skip(_BASIC if quote == '"' else _LITERAL if quote == "'" else _BARE_KEY)
            raw = self._text[start : self._at]
            keys.append(tomllib.loads(f"key = {raw}")["key"] if quote in "\"'" else raw)
            if self._skip(_SPACE) != ".":
                return keys
            self._at += 1

    def _pair(self, table: Path) -> None:
        start = self._at
        path = (*table, *self._key())
        self._mark(path, start)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening == "[":
            self._at += 1
            index = 0
            while self._skip(_BLANK) != "]":
                self._mark((*path, index), self._at)
                self._value((*path, index))
                index += 1
                if self._skip(_BLANK) == ",":
                    self._at += 1
            self._at += 1
        elif opening == "{":
            self._at += 1
            while self._skip(_BLANK) != "}":
                self._pair(path)
                if self._skip(_BLANK) == ",":
                    self._at += 1
            self._at += 1
        elif opening == '"':
            self._skip(_LONG_BASIC if self._text.startswith('"""', self._at) else _BASIC)
        elif opening == "'":
            self._skip(_LONG_LITERAL if self._text.startswith("'''", self._at) else _LITERAL)
        else:
            self._skip(_SCALAR)
