"""The topic usage.raw: the format of its messages, and how files and single records become messages."""
