"""Studies on public data, as documents alone, and how their tables are made."""
