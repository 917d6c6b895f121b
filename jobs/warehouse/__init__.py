"""The history kept in order: compaction, and the copy in ClickHouse."""
