"""Training methods, each a list of objectives for a batch."""
