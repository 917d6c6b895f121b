"""The totals that rules compare with their thresholds."""
