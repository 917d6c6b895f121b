"""Steps after the condition of a rule is met: firings, their repetition, and the tables of firings and actions."""
