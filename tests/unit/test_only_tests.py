"""The check of names that only tests use finds what it should, and passes what is in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).resolve().parents[2] / "scripts" / "checks" / "only_tests.py"
MODULES = {
    "rating/__init__.py": "from rating.sums import passed_on\n__all__ = ['passed_on']\n",
    "rating/sums.py": """
LIMIT = 1
UNUSED = 2
def used(): return LIMIT
def passed_on(): ...
def recursive(): return recursive()
def _private(): ...
class Tree:
    def asked(self): ...
    def never_asked(self): ...
class Oak(Tree):
    def forgotten(self): ...
@cache
def remembered(): ...
""",
    "rating/registry.py": """
from library import Store, register
class Shelf(Store):
    def called_by_the_library(self): ...
@register
def handed_over(): ...
""",
    "jobs/run.py": """
from rating.registry import Shelf
from rating.sums import Oak, Tree, used
passed_on = 1
print(used(), Tree().asked(), passed_on)
""",
    "tests/test_sums.py": "from rating.sums import passed_on, UNUSED, Tree\nTree().never_asked()\n",
}


def test_names_without_a_use_in_the_product_are_reported(tmp_path: Path) -> None:
    """Names of tests, names that are only passed on and a function that calls only itself are findings.

    So are methods of a derived class and cached functions, unless a library may call them.
    """
    for file, text in MODULES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    done = subprocess.run([sys.executable, CHECK], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = [line.partition(": found no use")[0] for line in done.stdout.splitlines() if "found no use" in line]
    assert found == [
        f"rating/sums.py: {name}"
        for name in ("Oak.forgotten", "Tree.never_asked", "UNUSED", "passed_on", "recursive", "remembered")
    ]
    assert done.returncode == 1
    unneeded = [line for line in done.stdout.splitlines() if "ALLOWED" in line]
    assert "rating/usage/rerating.py: rerate" in unneeded[-1]
