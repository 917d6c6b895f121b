"""The check of parameters and lines of functions (scripts/checks/parameters.py) finds what it should find."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECK = runpy.run_path(str(ROOT / "scripts" / "checks" / "parameters.py"))


def found(source: str) -> list[str]:
    """The faults of a file of this content."""
    return list(CHECK["faults"](Path("rating/one.py"), source))


def test_all_kinds_of_parameters_count_but_self_and_cls() -> None:
    """Six are allowed, seven are not, whether positional, keyword-only or variadic."""
    assert found("def f(a, b, c, d, e, f): ...\nclass C:\n    def m(self, a, b, c, d, e, f): ...") == []
    for more in ("a, b, c, /, d, e, f, g", "a, b, c, d, e, *, f, g", "a, b, c, d, e, *f, **g"):
        (fault,) = found(f"async def f({more}): ...")
        assert fault.startswith("rating/one.py:1: f: found 7 parameters (a, b, c, d, e, f, g); expected at most 6")


def test_a_function_has_at_most_seventy_lines() -> None:
    """The line of `def` counts, too."""
    assert found("def f():\n" + "    pass\n" * 69) == []
    (fault,) = found("def f():\n" + "    pass\n" * 70)
    assert fault == "rating/one.py:1: f: found 71 lines; expected at most 70: split it"
