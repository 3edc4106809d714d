"""Reads prompts from the command line and from files, and checks all of them before anything starts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, UsageError
from pipeline.generation.sampling import seed_problems

SHOWN_PROBLEMS = 20
"""Maximum number of bad lines that an error lists; the others are counted."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with its origin and options.

    Attributes:
        text: the prompt itself.
        location: location in the file or command line, for messages.
        id: given id, or the prompt's number.
        language: language in the file; only passed on.
        seed: given seed, or None for the job's.
    """

    text: str
    location: str
    id: str
    language: str | None = None
    seed: int | None = None


def read_prompts(
    texts: tuple[str, ...], file: str, num_ids: Callable[[list[str]], list[int]], max_ids: int
) -> list[Prompt]:
    """Returns the prompts of the command line, then those of `file`: lines of `.txt` or objects of `.jsonl`.

    Args:
        texts: prompts of the command line.
        file: a path, or empty.
        num_ids: returns the number of text ids of each text.
        max_ids: maximum number of ids in a prompt.

    Raises:
        UsageError: a prompt of the command line is empty or too long, or the file has another suffix.
        InputError: the file cannot be read, or has bad lines; the message lists up to `SHOWN_PROBLEMS` of them.
    """
    given = [Prompt(text, "--prompt", str(number)) for number, text in enumerate(texts)]
    if problems := _problems(given, num_ids, max_ids):
        raise UsageError(f"{'; '.join(problems)}; say what to draw, in fewer words where it is too long")
    if not file:
        return given
    lines, problems = _read(Path(file), len(given))
    problems += _problems(lines, num_ids, max_ids)
    problems += _repeated([*given, *lines])
    if problems:
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise InputError(
            f"prompts file {file!r}: {'; '.join(sorted(problems, key=_line)[:SHOWN_PROBLEMS])}{more}; correct the file"
        )
    if not lines:
        raise InputError(f"prompts file {file!r} has no line; write one prompt a line")
    return [*given, *lines]


def check_not_empty(texts: tuple[str, ...]) -> None:
    """Raises UsageError if a prompt of the command line is empty. It needs no tokenizer."""
    if not all(text.strip() for text in texts):
        raise UsageError("--prompt is empty; say what to draw")


def _problems(prompts: list[Prompt], num_ids: Callable[[list[str]], list[int]], max_ids: int) -> list[str]:
    found = []
    for prompt, count in zip(prompts, num_ids([prompt.text for prompt in prompts]), strict=True):
        if not prompt.text.strip():
            found.append(f"{prompt.location} is empty")
        elif count > max_ids:
            found.append(f"{prompt.location} has {count} text ids, this model takes at most {max_ids}")
    return found


def _read(path: Path, first_number: int) -> tuple[list[Prompt], list[str]]:
    if path.suffix not in (".txt", ".jsonl"):
        raise UsageError(
            f"--prompts {str(path)!r}: the name must end in .txt (a prompt a line) or .jsonl (an object a line)"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts file {str(path)!r} cannot be read as UTF-8 text: {error}") from error
    if lines[-1] == "":
        lines.pop()  # the part after the last newline is not a line
    prompts, problems = [], []
    for number, line in enumerate(lines, start=1):
        location, own_id = f"line {number}", str(first_number + number - 1)
        if path.suffix == ".txt":
            prompts.append(Prompt(line.removesuffix("\r"), location, own_id))
            continue
        try:
            prompts.append(_parsed(line, location, own_id))
        except ValueError as error:
            problems.append(f"{location} {error}")
    return prompts, problems


def _parsed(line: str, location: str, own_id: str) -> Prompt:
    """Parses a line; keys other than `prompt`, `language`, `seed` and `id` are ignored.

    Raises:
        ValueError: the problem, in words that follow the line's place in a message.
    """
    try:
        value: Any = json.loads(line) if line.strip() else None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg})") from error
    if value is None:
        raise ValueError("is empty")
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        raise ValueError('is no object with a text under "prompt"')
    language, seed = value.get("language"), value.get("seed")
    if language is not None and not isinstance(language, str):
        raise ValueError(f"has the language {language!r}, but it must be a text")
    if seed is not None:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ValueError(f"has the seed {seed!r}, but it must be a whole number")
        if problems := seed_problems(seed):
            raise ValueError(f"is wrong: {problems[0]}")
    return Prompt(value["prompt"], location, str(value.get("id", own_id)), language, seed)


def _repeated(prompts: list[Prompt]) -> list[str]:
    locations: dict[str, str] = {}
    found = []
    for prompt in prompts:
        if prompt.id in locations:
            found.append(f"{prompt.location} has the id {prompt.id!r} of {locations[prompt.id]}")
        locations.setdefault(prompt.id, prompt.location)
    return found


def _line(problem: str) -> int:
    return int(problem.split()[1])
