"""Writes a recipe as a Python file: the settings that differ from the usual ones, each with its reason."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pipeline.config
from pipeline.config import Recipe
from tokenization.config.vqgan import OPEN_MUSE, PIXEL_SHUFFLE

WIDTH = 116
NAMED = ((OPEN_MUSE, "OPEN_MUSE"), (PIXEL_SHUFFLE, "PIXEL_SHUFFLE"))
"""Values that a recipe names."""
ALWAYS = {"size_px", "encoder_dtype", "steps", "global_batch_size", "seq_len", "learning_rate"}
ALWAYS |= {"num_workers", "cpus_per_worker", "zero_stage", "dtype"}
"""Settings that stand in the file even with their usual values: those that are changed first."""


def recipe_source(recipe: Recipe, head: str, reasons: Mapping[str, str]) -> str:
    """Returns the text of a file whose `recipe()` returns the recipe.

    Args:
        recipe: the recipe; its stages after the first are written as changes of the one before.
        head: the file's docstring.
        reasons: comments by setting, as in `stages.0.steps`; those of a stage's settings hold for all stages.
    """
    body = []
    for number, stage in enumerate(recipe.stages):
        before = (f"stage_{number}", recipe.stages[number - 1]) if number else None
        body.append(f"    stage_{number + 1} = {_call(stage, 1, f'stages.{number}', reasons, before)}")
    stages = ", ".join(f"stage_{number + 1}" for number in range(len(recipe.stages)))
    body.append(f"    return {_call(recipe, 1, '', reasons, None, {'stages': f'({stages},)'})}")
    text = "\n".join(body)
    names = sorted({*_names(text), "Recipe"}, key=lambda name: (not name.isupper(), name))
    replaces = "from dataclasses import replace\n\n" if len(recipe.stages) > 1 else ""
    imports = "\n".join(f"    {name}," for name in names)
    quoted = head.replace("\\", "\\\\").replace('"""', "'''")
    top = f'"""{quoted}"""\n\n{replaces}from pipeline.config import (\n{imports}\n)'
    return f"{top}\n\n\ndef recipe() -> Recipe:\n{text}\n"


def _names(text: str) -> set[str]:
    """The names of `pipeline.config` that the text uses."""
    known = [name for name in vars(pipeline.config) if name[:1].isupper()]
    return {name for name in known if f"{name}(" in text or f"={name}," in text}


def _call(
    settings: Any,
    depth: int,
    path: str,
    reasons: Mapping[str, str],
    before: tuple[str, Any] | None = None,
    instead: Mapping[str, str] | None = None,
) -> str:
    """The call that makes settings, one of them a line.

    Args:
        settings: a dataclass.
        depth: levels of indentation.
        path, reasons: see `recipe_source`.
        before: other settings, and the variable that holds them, to write the changes alone.
        instead: the text of some values, by their names.
    """
    inner, lines = "    " * (depth + 1), []
    for field in fields(settings):
        value = getattr(settings, field.name)
        usual = getattr(before[1], field.name) if before else _usual(field)
        if value == usual and (before or field.name not in ALWAYS):
            continue
        at = f"{path}.{field.name}" if path else field.name
        if reason := reasons.get(at, ""):
            lines += [f"{inner}# {line}" for line in textwrap.wrap(reason, WIDTH - len(inner))]
        text = (instead or {}).get(field.name) or _value(value, depth + 1, at, reasons)
        lines.append(f"{inner}{field.name}={text},")
    first = f"replace(\n{inner}{before[0]},\n" if before else f"{type(settings).__name__}(\n"
    return f"{first}" + "\n".join(lines) + f"\n{'    ' * depth})"


def _value(value: Any, depth: int, path: str, reasons: Mapping[str, str]) -> str:
    if constant := next((name for known, name in NAMED if known == value), ""):
        return constant
    if is_dataclass(value):
        return _call(value, depth, path, reasons)
    if isinstance(value, dict) and any(map(is_dataclass, value.values())):
        inner = "    " * (depth + 1)
        texts = [(name, _value(each, depth + 1, f"{path}.{name}", reasons)) for name, each in value.items()]
        return "{\n" + "".join(f"{inner}{_plain(name)}: {text},\n" for name, text in texts) + "    " * depth + "}"
    if isinstance(value, tuple) and len(_plain(value)) > WIDTH - 30:
        inner = "    " * (depth + 1)
        return "(\n" + "".join(f"{inner}{_plain(each)},\n" for each in value) + "    " * depth + ")"
    return _plain(value)


def _plain(value: Any) -> str:
    """A value as Python writes it, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_plain(name)}: {_plain(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_plain, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def _usual(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING
