"""What follows when a rule's condition is met: firings, their repetition, and the tables of actions."""
