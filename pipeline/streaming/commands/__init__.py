"""The topic of commands: sends catalogues, commands and ticks, checks them in order and writes them to the journal."""
