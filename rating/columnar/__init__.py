"""Columns, quickly: hash tables, running totals in groups, and the way between Arrow, NumPy and Polars."""
