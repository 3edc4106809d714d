"""Corpora that the project makes itself: the demo's drawings and lists, and noise. Imports `corpora` and `files`."""
