"""Check that no function of rating/ has more than six parameters or 70 lines.

Parameters are all arguments, keyword-only ones included, except `self` and `cls`. Lines are counted from `def` to the
last line of the body.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOST_PARAMETERS: Final = 6
MOST_LINES: Final = 70

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[str]:
    """Return the names of the parameters of a function, without `self` and `cls`."""
    given = function.args
    rest = [one for one in (given.vararg, given.kwarg) if one is not None]
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)]
    return [name for name in names if name not in ("self", "cls")]


def faults(path: Path, source: str) -> Iterator[str]:
    """Find the functions of a file that have too many parameters or lines. Yields a message for each fault."""
    for node in ast.walk(ast.parse(source, str(path))):
        if not isinstance(node, Function):
            continue
        names = parameters(node)
        if len(names) > MOST_PARAMETERS:
            yield (
                f"{path}:{node.lineno}: {node.name}: found {len(names)} parameters ({', '.join(names)}); "
                f"expected at most {MOST_PARAMETERS}: put those that belong together into a frozen dataclass"
            )
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > MOST_LINES:
            yield f"{path}:{node.lineno}: {node.name}: found {lines} lines; expected at most {MOST_LINES}: split it"


def main() -> int:
    """Check all files of rating/. Prints the faults; returns 1 if there are any."""
    root = Path(__file__).resolve().parents[2]
    files = sorted((root / "rating").rglob("*.py"))
    if not files:
        print(f"{root / 'rating'}: found no Python file; expected those of rating/")
        return 1
    found = [fault for path in files for fault in faults(path.relative_to(root), path.read_text(encoding="utf-8"))]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
