"""What rules react to: usage, events, and the passing of time."""
