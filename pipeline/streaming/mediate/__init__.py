"""Mediate: raw messages become entries of the journal."""
