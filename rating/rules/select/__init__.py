"""Selection of the SIMs and records that a rule watches: owner, scope, filters, and the nearest setting."""
