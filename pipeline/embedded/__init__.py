"""The embedded driver: one process over one data directory."""
