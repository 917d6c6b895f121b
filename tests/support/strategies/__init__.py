"""Hypothesis strategies and seeded generators of the property tests."""
