"""Libraries that only some places need."""

from importlib import import_module
from typing import Any

from tokenization.errors import InputError


def needed(module: str, what: str, extra: str) -> Any:
    """Imports a module that comes with one of the project's extras.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{what} needs the package of {module}, which is not installed; install this project with [{extra}]"
        ) from error
