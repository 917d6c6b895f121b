"""Feeds: mappings, and files decoded into columns of text."""
