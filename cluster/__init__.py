"""Cluster files, and Python that reads and checks them, plans nodes, and follows submitted jobs. Imports
`pipeline.errors` and `pipeline.runtime`.
"""
