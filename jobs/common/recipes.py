"""Loads recipes by name or file, and applies overrides from the command line."""

import ast
import hashlib
import importlib.util
import sys
import typing
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import jobs.recipes
from jobs.common.flags import at_home, with_homes
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Returns the recipe of `recipe()` in a file, with `a.b=value` overrides applied.

    Args:
        name: a file of `jobs/recipes` without its suffix, or the path of a `.py` file anywhere.
        overrides: values of `--set`.

    Raises:
        UsageError: there is no such recipe, its file fails, a key is unknown, a value has the wrong type, or the recipe
            is impossible.
    """
    recipe = _recipe_in(name)
    keys: list[str] = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UsageError(f"--set {override!r} has no '='; write --set a.b=value")
        if before := next((other for other in keys if f"{other}.".startswith(f"{key}.")), ""):
            raise UsageError(
                f"--set {key} overwrites the earlier --set {before}; give one of them, or --set {before} last"
            )
        keys.append(key)
        recipe = _set(recipe, key.split("."), value, key)
    resolved: Recipe = with_homes(recipe)
    if problems := resolved.problems():
        raise UsageError("; ".join(problems))
    return resolved


def is_recipe_file(name: str) -> bool:
    """True if `--recipe` names a file, and not one of the project's recipes."""
    return name.endswith(".py")


def _recipe_in(name: str) -> Recipe:
    known = sorted(module.name for module in iter_modules(jobs.recipes.__path__))
    if name not in known and not is_recipe_file(name):
        raise UsageError(f"there is no recipe {name!r}; name one of {', '.join(known)}, or the path of a .py file")
    if is_recipe_file(name) and not Path(name).is_file():
        raise UsageError(f"recipe {name!r}: there is no such file in {str(Path.cwd())!r}")
    try:
        module = _module_of(Path(name)) if is_recipe_file(name) else import_module(f"jobs.recipes.{name}")
        make = getattr(module, "recipe", None)
        found = make() if callable(make) else None
    except Exception as error:  # the file is the user's own code
        said = " ".join(str(error).split())  # on one line, whatever the file raised
        raise UsageError(f"recipe {name!r} raises {type(error).__name__}: {said}") from error
    if not callable(make):
        raise UsageError(f"recipe {name!r} has no function recipe(); write one that returns a Recipe")
    if type(found) is not Recipe:  # a class of the file's own could not be read in workers, which do not have the file
        raise UsageError(f"recipe {name!r}: recipe() returns a {type(found).__name__}; return a pipeline.config.Recipe")
    return found


def _module_of(path: Path) -> ModuleType:
    """Loads the file as a module under a unique name."""
    name = f"recipe_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses that the file defines look here for their types
    spec.loader.exec_module(module)
    return module


def _set(node: Any, path: list[str], text: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise UsageError(f"--set {key}: {name!r} is not a position from 0 to {len(node) - 1}")
        index = int(name)
        changed = _set(node[index], rest, text, key) if rest else _parse(text, type(node[index]), key)
        return (*node[:index], changed, *node[index + 1 :])
    if isinstance(node, dict):
        old = node.get(name)
        if is_dataclass(next(iter(node.values()), None)) and old is None:
            raise UsageError(f"--set {key}: there is no {name!r}; the keys here are {', '.join(node)}")
        like = next(iter(node.values()), None) if old is None else old
        return node | {name: _set(old, rest, text, key) if rest else _parse(text, type(like), key)}
    if not is_dataclass(node) or isinstance(node, type):
        raise UsageError(f"--set {key}: there is nothing below {path[0]!r}")
    names = [one.name for one in fields(node)]
    if name not in names:
        raise UsageError(f"--set {key}: there is no {name!r}; the keys here are {', '.join(names)}")
    if rest:
        return replace(node, **{name: _set(getattr(node, name), rest, text, key)})
    annotation = typing.get_type_hints(type(node))[name]
    return replace(node, **{name: _parse(text, typing.get_origin(annotation) or annotation, key)})


def _parse(text: str, kind: type, key: str) -> Any:
    if kind is str:
        return at_home(text)
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError) as error:
        if kind is type(None):  # the first value of a dict
            return text
        raise UsageError(
            f"--set {key}={text}: {text!r} is not a Python literal; give a value of type {kind.__name__}"
        ) from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is not type(None) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UsageError(f"--set {key}={text}: give a value of type {kind.__name__}, not {type(value).__name__}")
    return value
