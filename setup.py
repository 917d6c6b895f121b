"""The part of the build that pyproject.toml cannot say: the folder `examples` is installed as `jobs/examples`.

In the checkout the examples are at the root, where readers look for them. An installed `weir demo` needs them as well,
and a top-level package named `examples` could collide with others.
"""

from setuptools import find_packages, setup

ROOTS = ("schemas", "rating", "pipeline", "jobs")

setup(
    packages=[*find_packages(include=[pattern for root in ROOTS for pattern in (root, f"{root}.*")]), "jobs.examples"],
    package_dir={"jobs.examples": "examples"},
)
