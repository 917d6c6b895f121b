"""Hypothesis strategies: what property tests draw."""
