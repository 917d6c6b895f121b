"""Mediation: text columns of a feed become usage records or rejects (F1, F2, F5)."""
