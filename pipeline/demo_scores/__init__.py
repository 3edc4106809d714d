"""Scores of the demo's drawings, and their section of the report. Imports `evaluation` and `tokenization.demo`."""
