"""The journal: entries in one order, as files of a data directory and as messages of a topic."""
