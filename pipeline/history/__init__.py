"""The history: Parquet files of the results of the fold; how they are written, read and merged."""
