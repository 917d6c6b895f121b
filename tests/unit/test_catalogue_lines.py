"""Line numbers of TOML keys."""

from __future__ import annotations

import tomllib

import pytest

from pipeline.catalogue.lines import Path, locate

_TEXT = '''# a comment with [[brackets]] and "quotes"
title = "one \\" two # not a comment"
[owner]
"dotted.key" = 'literal # text'
a.b . "c" = 1979-05-27 07:32:00

[[plans]]  # the first
id = "x"
text = """
[[plans]]
key = 1 \\""" still text"""
many = [
  1,  # one
  { name = "n", deep = { er = [ "]", '}' ] } },
  [ 2, [ 3 ] ],
]
[[plans.versions]]
n = 1
[[plans.versions]]
n = 2
[plans.versions.price]
model = "flat"
[[plans]]
raw = \'\'\'
[nothing]
\'\'\'
[[plans.versions]]
n = 3
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 2),
        (("owner",), 3),
        (("owner", "dotted.key"), 4),
        (("owner", "a", "b", "c"), 5),
        (("plans", 0), 7),
        (("plans", 0, "id"), 8),
        (("plans", 0, "text"), 9),
        (("plans", 0, "many", 0), 13),
        (("plans", 0, "many", 1, "deep", "er", 1), 14),
        (("plans", 0, "many", 2, 1, 0), 15),
        (("plans", 0, "versions", 0, "n"), 18),
        (("plans", 0, "versions", 1), 19),
        (("plans", 0, "versions", 1, "price", "model"), 22),
        (("plans", 1), 23),
        (("plans", 1, "versions", 0, "n"), 28),
    ],
)
def test_each_key_has_its_line(path: Path, line: int) -> None:
    """Tables, arrays of tables, inline tables, dotted and quoted keys and array items are found where they stand."""
    assert line == locate(_TEXT).line(path)


def test_what_is_not_written_has_the_line_of_what_encloses_it() -> None:
    """A missing field is reported at its table; outside of all tables, at the first line."""
    lines = locate(_TEXT)
    assert 19 == lines.line(("plans", 0, "versions", 1, "effective"))
    assert 1 == lines.line(("nothing",))


def test_the_text_is_one_that_the_reader_accepts() -> None:
    """The example of this file is TOML: its paths are those that the standard library reads."""
    assert _paths(tomllib.loads(_TEXT)) == locate(_TEXT).paths()


def test_line_ends_of_windows() -> None:
    """A carriage return before the line feed makes no difference."""
    text = "a = 1\r\n\r\n[[t]]\r\nb = [\r\n  2,\r\n]\r\n"
    assert [1, 3, 4, 5] == [locate(text).line(path) for path in [("a",), ("t", 0), ("t", 0, "b"), ("t", 0, "b", 0)]]


def _paths(value: object, path: Path = ()) -> frozenset[Path]:
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found |= _paths(inner, (*path, key))
    return frozenset(found)
