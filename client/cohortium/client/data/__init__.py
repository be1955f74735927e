"""Connectors: from a hospital's files to a checked table."""
