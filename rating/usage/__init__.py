"""The path of a usage batch: accept, find the cycle, allocate, price, and write rated rows."""
