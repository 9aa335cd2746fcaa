"""Where a new connection leads to."""
