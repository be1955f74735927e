"""A whole consortium on one machine, to see and to learn from."""
