"""Measurements that anyone can repeat; run from the repository root with `python -m`."""
