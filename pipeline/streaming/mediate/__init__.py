"""Mediate: decodes raw messages and writes them to the journal as entries."""
