"""Feed files in: ingest, rejected records, and the check of a mapping."""
