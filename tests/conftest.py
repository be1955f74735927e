"""Whoever runs `make test` twice gets the same answer twice; `pytest` alone draws new examples."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True)
