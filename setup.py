"""The part of the build that pyproject.toml cannot say: the folder `examples` is installed as `jobs/examples`.

In the checkout the examples are at the root, where readers look for them. An installed `weir demo` needs them as well,
and a top-level package named `examples` would be in the way of others.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["schemas", "schemas.*", "rating", "rating.*", "pipeline", "pipeline.*", "jobs", "jobs.*"]),
        "jobs.examples",
    ],
    package_dir={"jobs.examples": "examples"},
)
