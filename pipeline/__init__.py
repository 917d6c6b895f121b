"""The drivers and the edges of the world: files, feeds, journal, history."""
