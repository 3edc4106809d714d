"""Checks and expands what a user typed, before and after it is parsed."""

import os
import re
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import tyro

from pipeline.errors import UsageError

NO_PATHS = ("prompt", "hr_where")
"""Flags whose values are no paths, and may begin with `~`."""
HOME = re.compile(r"~[\w.-]*/|~$")


def check_given_once(options_type: Any, words: Sequence[str]) -> None:
    """Checks that no flag is given twice, of which the last one alone would count.

    Raises:
        UsageError: one is.
    """
    own = words[: words.index("--")] if "--" in words else words
    given = [_flag(word) for word in own if word.startswith("--")]
    for flag in given:
        if given.count(flag) > 1 and flag not in _repeatable(options_type):
            raise UsageError(
                f"--{flag} is given {given.count(flag)} times, and only the last would count; give it once"
            )


def expanded(options: Any) -> Any:
    """The options, with the user's home folder in the place of `~` at the beginning of a path."""
    if not is_dataclass(options) or isinstance(options, type):
        return options
    changed: dict[str, Any] = {}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in NO_PATHS:
            continue
        if isinstance(value, str):
            changed[field.name] = at_home(value)
        elif isinstance(value, tuple) and all(isinstance(one, str) for one in value):
            changed[field.name] = tuple(map(at_home, value))
    return replace(options, **changed)


def at_home(text: str) -> str:
    """A path with the user's home folder in the place of `~`; any other text unchanged."""
    return os.path.expanduser(text) if HOME.match(text) else text


def with_homes(node: Any) -> Any:
    """A tree of settings with the user's home folder in the place of `~` in every path."""
    if isinstance(node, str):
        return at_home(node)
    if isinstance(node, tuple):
        return tuple(map(with_homes, node))
    if isinstance(node, dict):
        return {name: with_homes(value) for name, value in node.items()}
    if not is_dataclass(node) or isinstance(node, type):
        return node
    changed = {field.name: with_homes(getattr(node, field.name)) for field in fields(node) if field.init}
    return replace(node, **changed) if changed != {name: getattr(node, name) for name in changed} else node


def _flag(word: str) -> str:
    return word[2:].partition("=")[0].replace("_", "-").removeprefix("no-")


def _repeatable(options_type: Any) -> set[str]:
    """Flags whose values are collected."""
    hints = [
        hint for kind in _dataclasses(options_type) for hint in typing.get_type_hints(kind, include_extras=True).items()
    ]
    append = tyro.conf.UseAppendAction
    return {name.replace("_", "-") for name, hint in hints if append in getattr(hint, "__metadata__", ())}


def _dataclasses(kind: Any) -> list[type]:
    """The class of the options, or those of all subcommands."""
    if is_dataclass(kind):
        return [kind if isinstance(kind, type) else type(kind)]
    return [found for one in typing.get_args(kind) for found in _dataclasses(one)]
