"""Exact numbers: money in nanos, and quantities in whole units."""
