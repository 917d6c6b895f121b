"""Commands: catalogues, commands and ticks in the one order of their topic."""
