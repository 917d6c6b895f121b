"""Rating usage again by command (P10)."""
