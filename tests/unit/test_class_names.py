"""The check of class names (scripts/checks/class_names.py) finds what it should find."""

from __future__ import annotations

import runpy
from pathlib import Path

CHECK = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "checks" / "class_names.py"))


def found(folder: Path, left: dict[str, int]) -> list[str]:
    """The faults of a product with two classes `Tally` and one `Reading`; `left` has names that may be shared."""
    for file, text in {
        "rating/sums.py": "class Tally: ...\nclass Reading:\n    class Inner: ...\n",
        "jobs/show/sums.py": "class _Tally: ...\n",
        "tests/sums.py": "class Reading: ...\n",
    }.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    faults: list[str] = CHECK["faults"](CHECK["classes"](folder), left)
    return faults


def test_a_shared_name_is_reported_with_its_places(tmp_path: Path) -> None:
    """A leading underscore makes no difference, and classes of tests do not count."""
    (fault,) = found(tmp_path, {})
    assert fault == ("class Tally: found 2 classes (rating/sums.py:1, jobs/show/sums.py:1); expected 1: rename one")


def test_the_list_of_shared_names_may_only_shrink(tmp_path: Path) -> None:
    """A name of the list may not get another class, and its number must be lowered if it has fewer."""
    assert found(tmp_path, {"Tally": 2}) == []
    for left in ({"Tally": 3}, {"Tally": 2, "Reading": 2}, {"Tally": 2, "Gone": 2}):
        (fault,) = found(tmp_path, left)
        assert fault.endswith("lower it")
