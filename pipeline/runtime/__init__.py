"""Processes, Ray connections, clocks and locks, independent of MARS. Imports `pipeline.errors` alone."""
