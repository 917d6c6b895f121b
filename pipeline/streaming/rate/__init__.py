"""Rate: the fold over a partition of the journal, its outputs, and its checkpoints."""
