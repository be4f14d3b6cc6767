"""Everything that runs: study files, data, the training loop, search, tracking."""
