"""Count stilted words (WORDS below) in comments, docstrings, help texts and docs.

    python scripts/checks/plain_english.py                compare with scripts/checks/plain_english.toml
    python scripts/checks/plain_english.py --list rating  show each place in a package
    python scripts/checks/plain_english.py --lower        write lower counts into the file; never higher ones

The TOML file has how many are left in each package. A higher count is a failure. So is a lower count: then run
`--lower` and commit the file, so that the number can only go down. Exit status 1 for a failure.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
COUNTS: Final = Path(__file__).with_suffix(".toml")
PACKAGES: Final = ("schemas", "rating", "pipeline", "jobs", "tests", "benchmarks", "scripts", "docs")

# Each with what to write instead.
WORDS: Final = {
    r"takes? leave": "close, disconnect",
    r"lets? go of|letting go of": "drop, free, release",
    r"in good order": "gracefully",
    r"for eyes": "for display",
    r"noughts?": "zero",
    r"whoever": "the reader, the next owner, …: name them",
    r"be it": "whether",
    r"by turns": "alternately",
    r"in the stead of": "instead of",
    r"of its own accord": "automatically",
    r"told": "reported, notified, distinguished",
    r"stands? for": "means, represents",
    r"com(?:es|e|ing) to nothing|came to nothing": "has no effect, fails",
    r"what (?:comes|came) of": "the result of",
    r"lies": "is",
    r"Raises?\b[^.]{0,200}?\bwhere": "Raises … if",
}

_WORD: Final = re.compile("|".join(rf"\b(?:{word})\b" for word in WORDS).replace(" ", r"\s+"))  # over a line break
_FENCE: Final = re.compile(r"```.*?```", re.DOTALL)
_SPAN: Final = re.compile(r"`[^`\n]*`")
_SPACE: Final = re.compile(r"\s+")
_DOCUMENTED: Final = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def main() -> int:
    """Run the command; 1 if a count differs from the file."""
    parser = argparse.ArgumentParser(description="Count stilted words that are left.")
    parser.add_argument("--list", metavar="PACKAGE", choices=PACKAGES, help="Show each place in a package.")
    parser.add_argument("--lower", action="store_true", help="Write lower counts into the file.")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{place}: {words}" for place, words in places(ROOT, arguments.list)))
        return 0
    allowed = tomllib.loads(COUNTS.read_text(encoding="utf-8"))
    found = {package: sum(1 for _ in places(ROOT, package)) for package in PACKAGES}
    if arguments.lower:
        found = {package: min(count, allowed.get(package, count)) for package, count in found.items()}
        lines = [f"{package} = {count}\n" for package, count in found.items()]
        COUNTS.write_text("# Stilted words that are left; see plain_english.py.\n" + "".join(lines), encoding="utf-8")
        return 0
    faults = [fault for package in PACKAGES if (fault := judge(package, found[package], allowed.get(package, 0)))]
    print("\n".join(faults) if faults else f"{sum(found.values())} stilted words left, as many as allowed")
    return 1 if faults else 0


def judge(package: str, found: int, allowed: int) -> str | None:
    """What is wrong with the count of a package, None if it is the allowed one."""
    if found > allowed:
        return f"{package}: found {found} stilted words; expected {allowed}: see plain_english.py --list {package}"
    if found < allowed:
        return f"{package}: found {found} stilted words, {allowed} are allowed: run plain_english.py --lower"
    return None


def places(root: Path, package: str) -> Iterator[tuple[str, str]]:
    """Each stilted word in a package: file and line, and the word."""
    for path in _files(root, package):
        for line, text in prose_of(path):
            for match in _WORD.finditer(text):
                before = text.count("\n", 0, match.start())
                yield f"{path.relative_to(root)}:{line + before}", _SPACE.sub(" ", match.group())


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """First line and text of each passage for readers: comments, docstrings, help texts, and documents without code."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield 1, _SPAN.sub("", _FENCE.sub(lambda code: "\n" * code.group().count("\n"), content))
    elif path.suffix == ".py":
        yield from _python_prose(content)
    else:
        sign = "--" if path.suffix == ".sql" else "#"
        lines = enumerate(content.splitlines(), 1)
        yield from ((number, line.split(sign, 1)[1]) for number, line in lines if sign in line)


def _python_prose(content: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(content)):
        value: ast.expr | None = None
        if isinstance(node, _DOCUMENTED) and node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
        elif isinstance(node, ast.keyword) and node.arg == "help":
            value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, value.value


def _files(root: Path, package: str) -> Iterator[Path]:
    for suffix in ("py", "md", "toml", "sql"):
        yield from sorted((root / package).rglob(f"*.{suffix}"))
    if package == "docs":
        yield from sorted(root.glob("*.md"))


if __name__ == "__main__":
    sys.exit(main())
