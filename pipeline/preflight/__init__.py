"""Checks of a cluster before a run: probes of each node, of the shared folders and of the links, and a real step twice.
Imports `launch`, `planning` and `training`.
"""
