"""The command-line jobs."""
