"""From sites' updates to the next model: a streaming weighted mean and the server's optimisers."""
