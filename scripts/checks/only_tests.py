"""Fail if a public name of the product is used by tests or benchmarks only, or by nobody.

A name is public if a module of schemas/, rating/, pipeline/ or jobs/ defines it at its top level (function, class or
constant) or as a method of a class, and it has no leading underscore. It counts as used if its own module refers to it
outside its own body, if another module of the product imports a name that is spelled the same, or if there is an
attribute or a dotted path in a text with that spelling. An import in `__init__.py` that is only passed on is no use.

Spelling decides, not types: the check can miss a name, but what it reports has no use. Functions with a decorator that
may register them count as used, and so do methods that a base class from outside the product may call.

Run it with the root of the repository as working directory: python scripts/checks/only_tests.py
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable
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
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


# Decorators that hand a function to nobody.
HARMLESS_DECORATORS = {
    "property", "cached_property", "classmethod", "staticmethod", "contextmanager", "asynccontextmanager",
    "abstractmethod", "cache", "lru_cache", "dataclass", "final", "override",
}  # fmt: skip
# Base classes that call no method of a class which they do not define themselves.
HARMLESS_BASES = {
    "NamedTuple", "Enum", "IntEnum", "StrEnum", "Protocol", "Struct", "msgspec.Struct", "Generic", "Exception",
}  # fmt: skip


def definitions(tree: ast.Module, own: set[str]) -> dict[str, ast.AST]:
    """The public names that a module defines, with what defines them; a method is `Class.method`.

    `own` has the names of classes of the product, so that a class derived from one of them is not taken for one that
    a library calls.
    """
    found: dict[str, ast.AST] = {}
    harmless = HARMLESS_BASES | own - foreign_names(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) or (isinstance(node, Function) and not is_registered(node)):
            found[node.name] = node
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef) and base_names(node) <= harmless:
            methods = [one for one in node.body if isinstance(one, Function)]
            found |= {f"{node.name}.{one.name}": one for one in methods if not is_registered(one)}
    return {name: node for name, node in found.items() if not any(part[0] == "_" for part in name.split("."))}


def base_names(node: ast.ClassDef) -> set[str]:
    """The names of the base classes of a class, without type parameters; one of another module is `module.name`."""
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return {ast.unparse(base) if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in bases}


def foreign_names(tree: ast.Module) -> set[str]:
    """The names that a module imports from outside the product."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name
        for node in imports
        for alias in node.names
        if (node.module or "").split(".")[0] not in PRODUCT
    } - HARMLESS_BASES


def own_classes(trees: Iterable[ast.Module]) -> set[str]:
    """The names of classes of the product whose bases, as far up as they go, call no method that they do not define."""
    bases = {
        node.name: {name + (" of a library" if name in foreign else "") for name in base_names(node)}
        for tree in trees
        for foreign in [foreign_names(tree)]
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    own = set(bases)
    while foreign := {name for name in own if bases[name] - HARMLESS_BASES - own}:
        own -= foreign
    return own


def is_registered(function: Function) -> bool:
    """Whether a decorator other than the harmless ones may hand a function to somebody else."""
    decorators = [one.func if isinstance(one, ast.Call) else one for one in function.decorator_list]
    names = {one.attr if isinstance(one, ast.Attribute) else getattr(one, "id", "") for one in decorators}
    return bool(names - HARMLESS_DECORATORS)


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
    own = own_classes(trees.values())
    for file, tree in trees.items():
        at_home = uses(tree, names=True) - uses(tree, names=False)
        for name, node in definitions(tree, own).items():
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
