"""Monthly usage report, built from history and state and written as Parquet, CSV, XLSX and one HTML page (Q4)."""
