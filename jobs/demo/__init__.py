"""Demo of Weir on synthetic data: a generated fleet and its usage."""
