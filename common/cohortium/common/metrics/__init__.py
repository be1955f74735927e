"""Evaluation: sums that sites send, what they may show of them, and what they add up to."""
