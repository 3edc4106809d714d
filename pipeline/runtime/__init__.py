"""Processes, Ray connections, clocks and locks: nothing here knows of MARS. Imports `pipeline.errors` alone."""
