"""What a model goes by: attributions for single patients, and what of them may leave a site."""
