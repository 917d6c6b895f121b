"""Mediation: convert text columns of a feed to usage records or rejects (F1, F2, F5)."""
