"""Tests and what they share; a package, so that an installed package of the same name cannot stand in for it."""
