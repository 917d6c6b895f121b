"""Thresholds at which a card is suspended for overage or cut (L1, L2), for whole columns."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from rating.columnar.key_index import Ints

_MB: Final = 1 << 20
_GB: Final = 1 << 30

NO_CUT: Final = -1

# Plans of up to _TIERS[i] bytes a month are cut at _CUTS[i] bytes a month (E).
_TIERS: Final = np.array([300 * _MB, 500 * _MB, 2 * _GB, 4 * _GB], np.int64)
_CUTS: Final = np.array([3 * _GB, 4 * _GB, 5 * _GB, 8 * _GB, NO_CUT], np.int64)


def overage_suspends(total_units: Ints, allowance_units: Ints, margin_units: Ints) -> npt.NDArray[np.bool_]:
    """bool[n]: whether usage in the cycle strictly exceeds allowance plus overage margin (L1, L11)."""
    # Compare a difference: the sum of two large values would not fit into 64 bits.
    suspends: npt.NDArray[np.bool_] = total_units - allowance_units > margin_units
    return suspends


def hard_cut_units(tier_units: Ints) -> Ints:
    """int64[n]: bytes a month at which a plan of each tier (bytes a month) is cut; NO_CUT above the 4 GB tier (L2)."""
    return _CUTS[np.searchsorted(_TIERS, tier_units)]
