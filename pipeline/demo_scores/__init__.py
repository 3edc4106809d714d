"""Scores of the demo's drawings, and their presentation. Imports `evaluation` and `tokenization.demo`."""
