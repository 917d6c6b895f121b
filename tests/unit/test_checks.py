"""The checks of documents and words (scripts/checks) find what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.checks import domain_numbers, plain_english

PAGE = """# The domain

### P7 Pool size
The sum of allowances.
Held by: `tests/test_pools.py::test_size`

### Q3 Export
Not built.
Not held by a test.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project: two numbers that are cited, a page that explains them, and a test."""
    for folder in ("docs", "rating", "tests"):
        (tmp_path / folder).mkdir()
    for name in domain_numbers.FILES:
        (tmp_path / name).write_text("")
    (tmp_path / domain_numbers.PAGE).write_text(PAGE)
    (tmp_path / "rating" / "pools.py").write_text('"""Pools (P7)."""\nB1 = "A1"  # exports: Q3\n')
    (tmp_path / "tests" / "test_pools.py").write_text("def test_size() -> None: ...\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("sizes (P7, L10)", ["P7", "L10"]),
        ("rules (L6 to L8)", ["L6", "L8", "L6", "L7", "L8"]),
        ("2026-10-01T10:00, an A4 page, P100, xP7, P7-x", []),
    ],
)
def test_numbers_are_found_among_other_words(text: str, numbers: list[str]) -> None:
    """Ranges cite what is between; times, paper sizes and longer words cite nothing."""
    assert numbers == domain_numbers.numbers_in(text)


def test_numbers_are_cited_in_prose_alone(tree: Path) -> None:
    """Comments and docstrings cite, code and strings do not."""
    assert {"P7": "rating/pools.py:1", "Q3": "rating/pools.py:2"} == domain_numbers.citations(tree)


def test_a_section_names_tests_that_exist(tree: Path) -> None:
    """A number that is held by no test says so; a test that is not there is found, with the place it moved to."""
    sections, faults = domain_numbers.read_page(tree / domain_numbers.PAGE)
    assert ([], ["P7", "Q3"]) == (faults, list(sections))
    for section in sections.values():
        assert [] == domain_numbers.faults_of(tree, "\n".join(section.text))
    moved = domain_numbers.faults_of(tree, "Held by: `tests/unit/test_pools.py::test_size`")
    assert ["found tests/unit/test_pools.py, which does not exist; expected tests/test_pools.py"] == moved
    renamed = domain_numbers.faults_of(tree, "Held by: `tests/test_pools.py::test_sizes`")
    assert ["found tests/test_pools.py::test_sizes; the file has no such test"] == renamed
    assert ["found no test; expected `Held by:` with tests, or `Not held by a test.`"] == domain_numbers.faults_of(
        tree, "The sum of allowances."
    )


def test_stilted_words_are_found_in_prose_alone(tree: Path) -> None:
    """In comments, docstrings, help texts and documents, also over a line break; not in code."""
    (tree / "rating" / "words.py").write_text(
        '"""Raises ValueError for none,\nand where it is late."""\n'
        'NOUGHT = "nought"\n'
        "option(help='End it in good\\norder.')\n"
        "# Drop it: let go of it.\n"
    )
    (tree / "docs" / "page.md").write_text("The file lies here.\n`lies`\n\n```\nlies\n```\n")
    assert [
        ("rating/words.py:5", "let go of"),
        ("rating/words.py:1", "Raises ValueError for none, and where"),
        ("rating/words.py:4", "in good order"),
    ] == list(plain_english.places(tree, "rating"))
    assert [("docs/page.md:1", "lies")] == list(plain_english.places(tree, "docs"))


def test_counts_of_stilted_words_only_go_down() -> None:
    """More is a failure, and so is a number that was not lowered."""
    assert plain_english.judge("rating", 3, 3) is None
    assert "--list rating" in str(plain_english.judge("rating", 4, 3))
    assert "--lower" in str(plain_english.judge("rating", 2, 3))
