"""Measurements of Weir; see README.md beside this file."""
