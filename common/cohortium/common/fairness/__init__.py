"""Who gets how much worse results, how sure that is, and what nobody could measure."""
