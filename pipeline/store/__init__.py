"""The data directory: checkpoints that are complete or absent, and the files that they name."""
