"""Land: outputs become files of the history, and rows in ClickHouse."""
