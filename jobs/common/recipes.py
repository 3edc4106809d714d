"""Recipes: frozen dataclass trees, and overriding one of their values from the command line."""

import ast
import typing
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import jobs.recipes
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe `jobs/recipes/NAME.py` returns, with `a.b=value` overrides applied.

    Raises:
        UsageError: no such recipe, an unknown key, a value of the wrong type, or an impossible stage.
    """
    known = sorted(module.name for module in iter_modules(jobs.recipes.__path__))
    if name not in known:
        raise UsageError(f"there is no recipe {name!r}; the recipes are {', '.join(known)}")
    recipe: Recipe = import_module(f"jobs.recipes.{name}").recipe()
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UsageError(f"--set {override!r} has no '='; write --set a.b=value")
        recipe = _set(recipe, key.split("."), value, key)
    if problems := recipe.problems():
        raise UsageError("; ".join(problems))
    return recipe


def _set(node: Any, path: list[str], text: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise UsageError(f"--set {key}: {name!r} is none of the positions 0 to {len(node) - 1}")
        place = int(name)
        changed = _set(node[place], rest, text, key) if rest else _parse(text, type(node[place]), key)
        return (*node[:place], changed, *node[place + 1 :])
    if isinstance(node, dict):
        old = node.get(name)
        if is_dataclass(next(iter(node.values()), None)) and old is None:
            raise UsageError(f"--set {key}: there is no {name!r}; the keys here are {', '.join(node)}")
        return node | {name: _set(old, rest, text, key) if rest else _parse(text, type(old), key)}
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
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"--set {key}={text}: not a Python literal; a {kind.__name__} is wanted") from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is not type(None) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UsageError(f"--set {key}={text}: a {kind.__name__} is wanted, not a {type(value).__name__}")
    return value
