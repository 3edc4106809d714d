"""HTML parts, sheets of pictures, and generated results on disk. Imports `runs`."""
