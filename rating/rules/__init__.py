"""Rules: what they watch, when they fire, and which actions they request (L6 to L12).

    batch -> traffic -> totals of slices -> usage, pools, events -> memory (repetition) -> firings -> actions
    tick, command, catalogue -> timers, events, changes          -> memory (repetition) -> firings -> actions

Everything is a function of the state and the journal entry, as in the rest of the fold. Rules never change a card
themselves. Actions leave the engine as data, and their results come back as commands.
"""
