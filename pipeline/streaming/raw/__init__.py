"""The topic usage.raw: what its messages are, and how files and single records become messages."""
