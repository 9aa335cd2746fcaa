"""`handler`."""
