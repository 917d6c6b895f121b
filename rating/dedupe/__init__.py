"""Exactly-once by record key: digests of records, and the keys that have been seen (F4)."""
