"""Fail if a public name of the product is used by tests or benchmarks only, or by nobody.

A name is public if a module of schemas/, rating/, pipeline/ or jobs/ defines it at its top level (function, class or
constant) or as a method of a class, and it has no leading underscore. It counts as used if its own module refers to it
outside its own body, if another module of the product imports a name that is spelled the same, or if there is an
attribute or a dotted path in a text with that spelling. An import in `__init__.py` that is only passed on is no use.

Spelling decides, not types: the check can miss a name, but what it reports has no use. Decorated functions count as
used, because the decorator may register them, and so do methods that a base class of another kind may call.

Run it with the root of the repository as working directory: python scripts/checks/only_tests.py
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from pathlib import Path

PRODUCT = ("schemas", "rating", "pipeline", "jobs")

# Names that only tests use, as "file: name", each with the reason why it stays.
ALLOWED: dict[str, str] = {
    "pipeline/broker/fetch.py: lacking": "tests/support/broker.py says with it why a machine cannot run Kafka tests",
    "pipeline/streaming/kafka/lenient.py: LenientRecords.has_next": "the Kafka client calls it",
    "pipeline/streaming/kafka/lenient.py: LenientRecords.next_batch": "the Kafka client calls it",
    "pipeline/streaming/kafka/lenient.py: LenientRecords.size_in_bytes": "the Kafka client calls it",
    "rating/dedupe/seen.py: Seen.memory_bytes": "benchmarks/bench_dedupe.py measures with it what a key costs",
    "rating/dedupe/seen.py: Seen.recent": "tests/property/test_bases.py compares states with it and changes nothing",
    "rating/usage/rerating.py: rerate": "the command that rates again is not written yet; readers know its rows",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def definitions(tree: ast.Module) -> dict[str, ast.AST]:
    """The public names that a module defines, with what defines them; a method is `Class.method`."""
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and (isinstance(node, ast.ClassDef) or not node.decorator_list):
            found[node.name] = node
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef) and not has_foreign_base(node):
            methods = [one for one in node.body if isinstance(one, Function)]
            found |= {f"{node.name}.{one.name}": one for one in methods if not is_registered(one)}
    return {name: node for name, node in found.items() if not any(part[0] == "_" for part in name.split("."))}


def has_foreign_base(node: ast.ClassDef) -> bool:
    """Whether a class has a base other than those without methods that call back."""
    harmless = {"NamedTuple", "Enum", "IntEnum", "StrEnum", "Protocol", "Struct"}
    names = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
    return bool(names - harmless)


def is_registered(function: Function) -> bool:
    """Whether a decorator other than those of the language may hand a method to somebody else."""
    known = {"property", "cached_property", "classmethod", "staticmethod", "contextmanager", "abstractmethod"}
    names = {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in function.decorator_list}
    return bool(names - known)


def uses(tree: ast.AST, *, names: bool) -> Counter[str]:
    """How often names are referred to: as an attribute, in a dotted path in a text, and with `names` also bare."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += names
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80:
            parts = node.value.replace(":", ".").split(".")
            if len(parts) > 1 and all(part.isidentifier() for part in parts):
                found.update(parts)
    return found


def imports(tree: ast.AST) -> set[str]:
    """The names that a module imports from others; linting sees to it that it uses them."""
    return {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}


def unused(root: Path) -> list[str]:
    """The findings "file: name" of a repository, sorted, without regard to the list of what is allowed."""
    trees = {
        path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for package in PRODUCT
        for path in sorted((root / package).rglob("*.py"))
    }
    used: Counter[str] = Counter()
    imported: set[str] = set()
    for file, tree in trees.items():
        used += uses(tree, names=False)
        at_home = uses(tree, names=True)
        imported |= {name for name in imports(tree) if at_home[name] or not file.endswith("__init__.py")}
    # Templates of the report call methods, and pyproject.toml names the command.
    for path in [
        *sorted((root / "jobs").rglob("*.j2")),
        *sorted((root / "jobs").rglob("*.html")),
        root / "pyproject.toml",
    ]:
        if path.is_file():
            imported.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    findings = []
    for file, tree in trees.items():
        at_home = uses(tree, names=True) - uses(tree, names=False)
        for name, node in definitions(tree).items():
            short = name.rpartition(".")[2]
            everywhere = used[short] + at_home[short] - uses(node, names=True)[short]
            if short not in imported and everywhere <= 0:
                findings.append(f"{file}: {name}")
    return sorted(findings)


def main() -> int:
    """Print the findings, and the entries of the list that are not needed any more."""
    found = unused(Path.cwd())
    messages = [
        f"{one}: found no use in the product; expected one, or remove it" for one in found if one not in ALLOWED
    ]
    messages += [f"{one}: found in the list ALLOWED, but it is in use or gone" for one in ALLOWED if one not in found]
    print("\n".join(messages))
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
