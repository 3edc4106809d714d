"""Baselines, timed comparisons, and fault injection. Imports `training` and `launch`."""
