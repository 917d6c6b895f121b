"""Keep pandas out of processes that only use pyarrow; imported for its effect, before any array is made.

pyarrow asks for pandas at the first array that it makes, whatever that is made from, and imports it if it is
installed. That takes several times as long as everything else that a command imports, and nothing in Weir uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class _PandasFinder:
    """Finds no pandas; leaves every other module to the finders behind it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for pandas."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas stays out while pyarrow asks for it", name=name)
        return None


def _leave_pandas_out() -> None:
    """Have pyarrow ask for pandas now, and find none. It asks once; `to_pandas` imports pandas all the same."""
    if "pandas" in sys.modules:  # somebody uses it: then it costs nothing more
        return
    sys.meta_path.insert(0, _PandasFinder)
    try:
        pa.array(())
    finally:
        sys.meta_path.remove(_PandasFinder)


_leave_pandas_out()
