"""Helpers of the tests for private names in foreign libraries."""

import ast
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path
from types import ModuleType


def private_name(name: str, used_for: str, parameters: tuple[str, ...] = ()) -> object:
    """Returns the object of a dotted name. Fails, with its purpose, if it is gone or lacks one of `parameters`."""
    library = name.split(".")[0]
    broken = f"{library} {version(library)} has no {name}, which is used for: {used_for}. See {library}_private.py"
    words = name.split(".")
    found: object = importlib.import_module(library)
    for count, word in enumerate(words[1:], start=2):
        if not hasattr(found, word) and isinstance(found, ModuleType):
            try:
                importlib.import_module(".".join(words[:count]))
            except ImportError as error:
                raise AssertionError(broken) from error
        assert hasattr(found, word), broken
        found = getattr(found, word)
    if parameters:
        taken = inspect.signature(found).parameters  # type: ignore[arg-type]
        takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
        missing = [each for each in parameters if each not in taken and not takes_all]
        assert not missing, f"{library} {version(library)}: {name} does not take {missing}; it is used for: {used_for}"
    return found


def names_in(path: Path, library: str) -> set[str]:
    """Returns the dotted names that a module imports from `library`, and the `_` attributes that it reads."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == library:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            found.add(node.attr)
    return found
