"""Maintenance of the history: compaction, and the copy in ClickHouse."""
