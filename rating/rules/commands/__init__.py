"""Commands in the fold, and the changes of cards that they and actions make."""
