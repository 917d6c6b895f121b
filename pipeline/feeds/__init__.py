"""Feeds: mappings, and decoders of feed files into columns of text."""
