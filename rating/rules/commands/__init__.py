"""Commands in the fold, and the card changes that commands and actions cause."""
