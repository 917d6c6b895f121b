"""Weir on made-up data: the demo, a fleet and its usage."""
