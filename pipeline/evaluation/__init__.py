"""Scores of a run: tokens, export, FID and CLIP, text drift, documents, two experts against one. Imports
`training`, `launch`, `benchmarks` and `pages`."""
