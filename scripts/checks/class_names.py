"""Fail if two classes of the product have one name; a leading underscore makes no difference.

LEFT has the names that are still shared, with the number of their classes. These numbers may only go down: rename a
class and lower its number, or remove its line.

Run it with the root of the repository as working directory: python scripts/checks/class_names.py
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

PRODUCT = ("schemas", "rating", "pipeline", "jobs")

LEFT: dict[str, int] = {
    "Accepted": 2,
    "Delivery": 2,
    "Facts": 2,
    "Format": 2,
    "Found": 2,
    "Held": 3,
    "History": 2,
    "Lane": 2,
    "Layout": 2,
    "Manifest": 2,
    "Message": 2,
    "Moved": 2,
    "Names": 2,
    "Packed": 2,
    "Packing": 2,
    "Part": 2,
    "Parts": 2,
    "Progress": 2,
    "Rate": 2,
    "Reading": 3,
    "Rows": 2,
    "Segment": 2,
    "Sender": 2,
    "Sent": 2,
    "Source": 2,
    "Tally": 3,
    "TextLines": 2,
    "Tick": 2,
    "Windows": 2,
    "Worker": 2,
}


def classes(root: Path) -> dict[str, list[str]]:
    """Return "file:line" of each class of the product by its name without leading underscores."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in PRODUCT:
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    found[node.name.lstrip("_")].append(f"{path.relative_to(root).as_posix()}:{node.lineno}")
    return found


def faults(found: dict[str, list[str]], left: dict[str, int]) -> list[str]:
    """Return a message for each name with more classes than `left` allows, or with fewer."""
    messages = []
    for name in sorted(found.keys() | left.keys()):
        count, allowed = len(found.get(name, ())), left.get(name, 1)
        if count > allowed:
            places = ", ".join(found[name])
            messages.append(f"class {name}: found {count} classes ({places}); expected {allowed}: rename one")
        elif name in left and (count < allowed or allowed < 2):
            messages.append(
                f"class {name}: found {count} classes; LEFT in {Path(__file__).name} says {allowed}: lower it"
            )
    return messages


def main() -> int:
    """Print the faults; 1 if there are any."""
    messages = faults(classes(Path.cwd()), LEFT)
    print("\n".join(messages))
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
