"""Slow, plain models that the engine is compared with."""
