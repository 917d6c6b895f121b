"""Thresholds of suspension and hard cut (L1, L2); their figures are among the conformance cases."""

from __future__ import annotations

import numpy as np

from rating.rules.hard_cut import NO_CUT, hard_cut_units, overage_suspends

MB = 1 << 20


def test_suspension_is_strictly_above_allowance_and_margin() -> None:
    """Each card by its own allowance and margin; figures near the end of 64 bits do not wrap around."""
    huge = 2**63 - 1
    total = np.array([40 * MB, 40 * MB + 1, 0, 1, huge, huge])
    allowance = np.array([30 * MB, 30 * MB, 0, 0, huge, 1])
    margin = np.array([10 * MB, 10 * MB, 0, 0, huge, huge - 2])
    assert [False, True, False, True, False, True] == overage_suspends(total, allowance, margin).tolist()


def test_a_tier_between_two_is_cut_as_the_larger() -> None:
    """Every tier up to 300 MB is cut at 3 GB; above 4 GB there is no cut."""
    tiers = np.array([0, 1, 299, 301, 501, 3000, 4096, 4097]) * MB
    cuts = [cut if cut == NO_CUT else cut // (1024 * MB) for cut in hard_cut_units(tiers).tolist()]
    assert [3, 3, 3, 4, 5, 8, 8, NO_CUT] == cuts
