"""Days, billing cycles, terms and time bands in the time zone of an account."""
