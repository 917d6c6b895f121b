"""Rules: what is watched, when it fires, and what is asked for then (L6 to L12).

    batch -> traffic -> totals of slices -> usage, pools, events -> memory (repetition) -> firings -> actions
    tick, command, catalogue -> timers, events, changes          -> memory (repetition) -> firings -> actions

Everything is a function of the state and the entry, as in the rest of the fold. Nothing here acts on a card: actions
leave as data, and what came of them returns as commands.
"""
