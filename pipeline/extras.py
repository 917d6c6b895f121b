"""Optional packages: the extras of the distribution, and the error if one of them is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from rating.errors import UsageError

DISTRIBUTION: Final = "weir-rating"  # its name in a package registry, as pyproject.toml has it
Extra = Literal["kafka", "clickhouse", "chdb"]

# The command that installs an extra in a checkout, from the pinned requirements.
_IN_CHECKOUT: Final[dict[Extra, str]] = {
    "kafka": "./scripts/streaming",
    "clickhouse": "./scripts/streaming",
    "chdb": "./scripts/streaming chdb",
}
_OWN: Final = frozenset(("schemas", "rating", "pipeline", "jobs"))


@contextmanager
def require_extra(extra: Extra, feature: str) -> Iterator[None]:
    """Run a block that imports packages of the extra. `feature` begins the error message: who needs the package.

    Raises UsageError, which says how to install the extra, if a package is missing. Other errors pass unchanged, such
    as a missing module of Weir itself, or a package that is installed but does not load.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in _OWN:
            raise
        raise UsageError(
            f"{feature} needs a package that is not installed ({missing.name}): run "
            f"`pip install '{DISTRIBUTION}[{extra}]'` (in a checkout {_IN_CHECKOUT[extra]}), then try again"
        ) from missing
