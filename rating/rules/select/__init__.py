"""Which SIMs and records a rule watches: owner, scope, filters, and the nearest setting."""
