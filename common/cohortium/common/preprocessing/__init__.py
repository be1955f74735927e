"""From a checked table to a model's inputs, the same way at every site."""
