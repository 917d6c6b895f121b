"""Fast operations on columns: hash tables, running totals in groups, and conversion between Arrow, NumPy and Polars."""
