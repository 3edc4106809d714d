"""Scores of any run on rows that no stage trained on: bits, retrieval, a sheet, and FID and CLIP score."""
