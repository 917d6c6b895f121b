"""The rating engine: pure functions over whole columns. No I/O, clock, randomness or logging."""
