"""Hostile input by hand and by chance."""
