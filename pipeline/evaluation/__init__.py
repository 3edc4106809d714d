"""Scores of a run: tokens, export, FID and CLIP, text drift, documents, two experts compared with one. Imports
`training`, `launch`, `benchmarks` and `pages`.
"""
