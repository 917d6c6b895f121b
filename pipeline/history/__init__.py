"""The history: Parquet files of what the fold gave, written, read and merged."""
