"""Land: writes outputs to the files of the history, and to ClickHouse."""
