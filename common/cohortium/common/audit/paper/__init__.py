"""Documents of the bundle for regulators, security and research-data people."""
