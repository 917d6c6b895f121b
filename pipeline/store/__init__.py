"""The data directory: atomic checkpoints, and the files that they contain."""
