"""Shapes of the data: usage records, plans, cards, rules, commands, actions and the tables that leave the engine.

This package computes nothing. Every other package may import from it; it imports from none of them.
"""
