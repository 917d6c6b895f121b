"""Queries on the state: cards, counters, pools, fees and rules, and explanations of charges."""
