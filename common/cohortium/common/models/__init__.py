"""The models that a study may ask for; `options` needs no torch, `building` does."""
