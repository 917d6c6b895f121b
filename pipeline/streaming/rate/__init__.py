"""Rate: the fold over one journal partition, its outputs, and its checkpoints."""
