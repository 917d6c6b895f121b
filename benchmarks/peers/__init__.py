"""What the same work costs without Weir's way of doing it."""
