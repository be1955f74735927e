"""What people read about a study: one page, and the same numbers as JSON and CSV."""
