"""The usage at which a card is cut, by the tier of its plan (L2), for whole columns."""

from __future__ import annotations

from typing import Final

import numpy as np

from rating.columnar.key_index import Ints

_MB: Final = 1 << 20
_GB: Final = 1 << 30

NO_CUT: Final = -1

# Plans of up to _TIERS[i] bytes a month are cut at _CUTS[i] bytes a month (E).
_TIERS: Final = np.array([300 * _MB, 500 * _MB, 2 * _GB, 4 * _GB], np.int64)
_CUTS: Final = np.array([3 * _GB, 4 * _GB, 5 * _GB, 8 * _GB, NO_CUT], np.int64)


def hard_cut_units(tier_units: Ints) -> Ints:
    """int64[n]: bytes a month at which a plan of each tier (bytes a month) is cut; NO_CUT above the 4 GB tier (L2)."""
    return _CUTS[np.searchsorted(_TIERS, tier_units)]
