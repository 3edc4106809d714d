"""Measures on one GPU what was only planned: a module a part, each run in a process of its own. Imports no Ray."""
