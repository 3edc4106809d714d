"""Scores of a run: FID and CLIP, text drift, documents, two experts against one. Imports `training`, `benchmarks` and
`pages`."""
