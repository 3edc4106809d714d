"""The soak: tokenization and training on a cluster whose parts fail at random. `make soak` runs it for an hour."""
