"""Check that docs/domain.md explains every number of the domain that is cited, and that its tests exist.

    python scripts/checks/domain_numbers.py

A number is a letter and digits, such as P7 or L10. It is cited in comments and docstrings of Python files, in comments
of TOML and SQL files, and in the text of Markdown files. docs/domain.md has a heading for each (`### P7 Pool size`)
and, in its section, either a line `Held by:` with tests, or the line `Not held by a test.`

Prints each fault with its file and line; exit status 1 if there is one.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = Path("docs/domain.md")
FOLDERS: Final = ("schemas", "rating", "pipeline", "jobs", "tests", "benchmarks", "docs", "examples")
FILES: Final = ("README.md", "CHANGELOG.md", "pyproject.toml")
PAPER_SIZES: Final = frozenset({"A3", "A4"})  # look like numbers of the domain

_NUMBER: Final = re.compile(r"(?<![\w.\-/{%])([TFPLCQABDE])([1-9]\d?)(?![\w\-/])")
_RANGE: Final = re.compile(r"(?<![\w.\-/])([TFPLCQ])([1-9]\d?) to \1([1-9]\d?)(?![\w\-/])")
_HEADING: Final = re.compile(r"^### ([TFPLCQABDE][1-9]\d?) \S")
_TEST: Final = re.compile(r"`(tests/[\w./-]+\.py)(?:::(\w+))?`")
_CODE: Final = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
_NOT_HELD: Final = "Not held by a test."


@dataclass
class Section:
    """One number in docs/domain.md."""

    line: int
    text: list[str] = field(default_factory=list)


def main() -> int:
    """Print the faults of the tree; 1 if there are any."""
    cited = citations(ROOT)
    sections, faults = read_page(ROOT / PAGE)
    for number in sorted(set(cited) - set(sections), key=_order):
        faults.append(f"{cited[number]}: {number} is cited; expected a heading `### {number} …` in {PAGE}")
    for number in sorted(set(sections) - set(cited), key=_order):
        faults.append(f"{PAGE}:{sections[number].line}: {number} is cited nowhere; remove its heading")
    for number, section in sections.items():
        faults += [f"{PAGE}:{section.line}: {number}: {fault}" for fault in faults_of(ROOT, "\n".join(section.text))]
    print("\n".join(faults) if faults else f"{len(sections)} numbers, each cited and explained")
    return 1 if faults else 0


def citations(root: Path) -> dict[str, str]:
    """Each cited number, with file and line of its first citation."""
    found: dict[str, str] = {}
    for path in sorted(_files(root)):
        relative = path.relative_to(root)
        if relative == PAGE:
            continue
        for line, text in prose_of(path):
            for number in numbers_in(text):
                found.setdefault(number, f"{relative}:{line}")
    return found


def numbers_in(text: str) -> list[str]:
    """The numbers that a text cites; `L6 to L8` cites three."""
    found = [letter + digits for letter, digits in _NUMBER.findall(text)]
    for letter, first, last in _RANGE.findall(text):
        found += [f"{letter}{number}" for number in range(int(first), int(last) + 1)]
    return [number for number in found if number not in PAPER_SIZES]


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of what a file says to its reader, without code."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from python_prose(content)
    elif path.suffix == ".md":
        blank = _CODE.sub(lambda code: re.sub(r"[^\n]", " ", code.group()), content)
        yield from enumerate(blank.splitlines(), 1)
    else:
        sign = "--" if path.suffix == ".sql" else "#"
        for number, line in enumerate(content.splitlines(), 1):
            if sign in line:
                yield number, line.split(sign, 1)[1]


def python_prose(content: str) -> Iterator[tuple[int, str]]:
    """Comments and docstrings of a Python file with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                text = first.value.value
                if isinstance(text, str):
                    yield from enumerate(text.splitlines(), first.lineno)


def read_page(path: Path) -> tuple[dict[str, Section], list[str]]:
    """The sections of docs/domain.md by number, and headings that come twice."""
    sections: dict[str, Section] = {}
    faults: list[str] = []
    current: Section | None = None
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        heading = _HEADING.match(text)
        if heading is not None:
            current = Section(line)
            if heading[1] in sections:
                faults.append(f"{PAGE}:{line}: {heading[1]} has a heading already; join the two")
            sections[heading[1]] = current
        elif text.startswith("#"):
            current = None
        elif current is not None:
            current.text.append(text)
    return sections, faults


def faults_of(root: Path, section: str) -> list[str]:
    """What is wrong with the tests that a section names."""
    tests = _TEST.findall(section)
    if not tests:
        return [] if _NOT_HELD in section else [f"found no test; expected `Held by:` with tests, or `{_NOT_HELD}`"]
    faults = []
    for file, name in tests:
        path = root / file
        if not path.is_file():
            moved = sorted(str(other.relative_to(root)) for other in (root / "tests").rglob(path.name))
            faults.append(f"found {file}, which does not exist; expected {' or '.join(moved) or 'a test file'}")
        elif name and not re.search(rf"^\s*(?:async )?(?:def|class) {name}\b", path.read_text("utf-8"), re.MULTILINE):
            faults.append(f"found {file}::{name}; the file has no such test")
    return faults


def _files(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for suffix in ("py", "md", "toml", "sql"):
            yield from (root / folder).rglob(f"*.{suffix}")
    yield from (root / name for name in FILES)


def _order(number: str) -> tuple[str, int]:
    return number[0], int(number[1:])


if __name__ == "__main__":
    sys.exit(main())
