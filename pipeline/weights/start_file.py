"""Recognises folders with a starting model."""

from pathlib import Path

START_FILE = "init_model.json"
"""File name of the record, which is stored with the weights."""


def is_starting_model(folder: Path) -> bool:
    """True if `make_starting_model` has started to write to the folder."""
    return (folder / START_FILE).exists()
