"""The prompt files of T2I-CompBench and GenEval, and the folders that their scorers read.

Both follow their public repositories (Karine-Huang/T2I-CompBench, djghosh13/geneval), as of November 2026.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

USUAL_SAMPLES = {"t2i-compbench": 10, "geneval": 4}
"""Pictures per prompt in each benchmark's own protocol."""
MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class ScorerPrompt:
    """A prompt, and its line of the prompt file."""

    text: str
    line: str


def read_prompts(layout: str, path: Path) -> list[ScorerPrompt]:
    """Reads prompts: one per line, up to a tab if there is one (T2I-CompBench), or JSON with `prompt` (GenEval).

    Raises:
        InputError: the file is missing, or has no prompt, or a line that the layout's scorer cannot read.
    """
    if not path.is_file():
        raise InputError(f"--prompts {str(path)!r} is no file; name one of the benchmark's prompt files")
    lines = path.read_text(encoding="utf-8").splitlines()
    prompts = [
        (_geneval if layout == "geneval" else _t2i_compbench)(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not prompts:
        raise InputError(f"--prompts {str(path)!r} has no prompt")
    return prompts


def picture_file(layout: str, prompt: ScorerPrompt, prompt_number: int, sample: int, samples: int) -> str:
    """Returns the path of a prompt's picture below the output folder; numbers count from 0."""
    if layout == "geneval":
        return f"{_geneval_folder(prompt_number)}/samples/{sample:04d}.png"
    return f"samples/{_t2i_compbench_name(prompt.text, prompt_number * samples + sample)}"


def write_metadata(layout: str, output: Path, prompts: list[ScorerPrompt]) -> None:
    """Writes each prompt's own line into its folder, where GenEval's scorers read it. T2I-CompBench needs none."""
    if layout == "geneval":
        for number, prompt in enumerate(prompts):
            folder = output / _geneval_folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "metadata.jsonl").write_text(prompt.line + "\n", encoding="utf-8")


def _geneval_folder(number: int) -> str:
    return f"{number:05d}"


def _geneval(line: str, where: str) -> ScorerPrompt:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON ({error}); GenEval's file is evaluation_metadata.jsonl") from error
    prompt = found.get("prompt") if isinstance(found, dict) else None
    if not isinstance(prompt, str) or not prompt.strip() or "tag" not in found:
        raise InputError(f"{where} has no `prompt` and `tag`; GenEval's file is evaluation_metadata.jsonl")
    return ScorerPrompt(prompt, line)


def _t2i_compbench(line: str, where: str) -> ScorerPrompt:
    """T2I-CompBench: the scorers read the prompt from the picture's name, up to its first underscore."""
    text = line.split("\t")[0].strip()
    if not text or {"_", "/", "\0"} & set(text):
        raise InputError(
            f"{where}: prompt {text!r} is empty or has a character that cannot stand in a name: '_' or '/'"
        )
    if len(_t2i_compbench_name(text, 0).encode()) > MAX_NAME_BYTES:
        raise InputError(f"{where}: the prompt of {len(text)} characters is too long for the name of a file")
    return ScorerPrompt(text, line)


def _t2i_compbench_name(prompt: str, number: int) -> str:
    return f"{prompt}_{number:06d}.png"
