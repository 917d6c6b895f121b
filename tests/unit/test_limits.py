"""The hard cut by tier (L2); its figures are among the conformance cases."""

from __future__ import annotations

import numpy as np

from rating.rules.hard_cut import NO_CUT, hard_cut_units

MB = 1 << 20


def test_a_tier_between_two_is_cut_as_the_larger() -> None:
    """Every tier up to 300 MB is cut at 3 GB; above 4 GB there is no cut."""
    tiers = np.array([0, 1, 299, 301, 501, 3000, 4096, 4097]) * MB
    cuts = [cut if cut == NO_CUT else cut // (1024 * MB) for cut in hard_cut_units(tiers).tolist()]
    assert [3, 3, 3, 4, 5, 8, 8, NO_CUT] == cuts
