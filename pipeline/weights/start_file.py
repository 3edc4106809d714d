"""How a folder with a starting model is told from another one."""

from pathlib import Path

START_FILE = "init_model.json"
"""The record, beside the weights."""


def is_starting_model(folder: Path) -> bool:
    """Whether `make_starting_model` has begun to write to the folder."""
    return (folder / START_FILE).exists()
