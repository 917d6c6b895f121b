"""The end of billing cycles: when a cycle closes for an account, and what is then owed without a usage record."""
