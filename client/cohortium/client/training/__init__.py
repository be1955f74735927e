"""Training on one site's own rows: with differential privacy, or plainly where both sides agree."""
