"""Measures the planned figures on one GPU. Each module is a part, which runs in a process of its own. Imports no
Ray."""
