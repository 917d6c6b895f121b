"""Running totals that rules compare with their thresholds."""
