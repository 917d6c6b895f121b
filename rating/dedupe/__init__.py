"""Exactly-once by record key: digests, and the keys that have been seen (F4)."""
