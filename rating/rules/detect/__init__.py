"""Detection of the conditions of rules: usage, events, changes of cards, and the passing of time."""
