"""What data looks like: records, plans, cards and the tables that leave the engine.

Nothing here computes; every other package imports from here and nothing here imports from them.
"""
