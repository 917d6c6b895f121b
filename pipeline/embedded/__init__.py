"""The embedded driver: one process on one data directory."""
