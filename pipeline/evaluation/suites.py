"""Benchmarks of text to image: their own prompt files, and the folders that their own scorers read.

As in their public repositories (djghosh13/geneval, TencentQQGYLab/ELLA, Karine-Huang/T2I-CompBench) in November 2026;
for COCO the annotations of 2014 (`captions_val2014.json`), and any scorer that reads a folder of pictures.
"""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import InputError

MAX_NAME_BYTES = 255
IMAGES = "images"
COCO_PICTURES = 30_000
"""COCO's captions that are drawn where no number is given: those of an FID on 30,000 pictures."""


@dataclass(frozen=True)
class SuitePrompt:
    """A prompt of a suite's file.

    Attributes:
        text: what is drawn.
        name: the beginning of its pictures' names, or of their folder's.
        line: what is written beside its pictures, for the scorer; empty for nothing.
    """

    text: str
    name: str
    line: str = ""


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        samples: pictures of each prompt in its own protocol.
        prompt_file: what its prompt file is called.
        read: reads prompts from that file.
        count: prompts that are drawn from the file where no number is given; 0 for all, in their order.
        grid: the pictures of a prompt are one file, two a row.
        scorer_reads: the folder that its scorer is given, below the output folder.
    """

    samples: int
    prompt_file: str
    read: Callable[[Path], list[SuitePrompt]]
    count: int = 0
    grid: bool = False
    scorer_reads: str = IMAGES


def suite_prompts(suite: str, path: Path, count: int, seed: int) -> list[SuitePrompt]:
    """Reads the prompts of a suite; `count` of them drawn by `seed` if it is not 0, in the file's order.

    Raises:
        InputError: the file is missing, has no prompt, fewer than `count`, or one that the scorer cannot read.
    """
    if not path.exists():
        raise InputError(f"--prompts {str(path)!r} does not exist; {suite} needs {SUITES[suite].prompt_file}")
    try:
        prompts = SUITES[suite].read(path)
    except UnicodeDecodeError as error:
        raise InputError(
            f"--prompts {str(path)!r} is no UTF-8 text; {suite} needs {SUITES[suite].prompt_file}"
        ) from error
    if not prompts:
        raise InputError(f"--prompts {str(path)!r} has no prompt; {suite} needs {SUITES[suite].prompt_file}")
    if count > len(prompts):
        wanted = f"the {count} that {suite} draws" if count == SUITES[suite].count else f"--count {count}"
        raise InputError(
            f"--prompts {str(path)!r} has {len(prompts)} prompts, fewer than {wanted}; --count 0 takes all"
        )
    if not count:
        return prompts
    return [
        prompts[number] for number in sorted(np.random.default_rng(seed).permutation(len(prompts))[:count].tolist())
    ]


def picture_file(suite: str, prompt: SuitePrompt, prompt_number: int, sample: int, samples: int) -> str:
    """Returns the path of a prompt's picture below the output folder; numbers count from 0."""
    if suite == "geneval":
        return f"{prompt.name}/samples/{sample:04d}.png"
    if suite == "t2i_compbench":
        return f"samples/{_compbench_name(prompt.text, prompt_number * samples + sample)}"
    return f"{IMAGES}/{prompt.name}.png"


def write_lines(suite: str, output: Path, prompts: list[SuitePrompt]) -> None:
    """Writes what belongs to the prompts: GenEval's scorer reads it, and for COCO a CLIP score needs it."""
    if suite == "geneval":
        for prompt in prompts:
            (output / prompt.name).mkdir(parents=True, exist_ok=True)
            (output / prompt.name / "metadata.jsonl").write_text(prompt.line + "\n", encoding="utf-8")
    elif suite == "coco":
        (output / "captions.jsonl").write_text("".join(f"{prompt.line}\n" for prompt in prompts), encoding="utf-8")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not empty, each with its place for a message."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            yield line, f"{path}, line {number}"


def _geneval(path: Path) -> list[SuitePrompt]:
    prompts: list[SuitePrompt] = []
    for line, where in _lines(path):
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where} is no JSON ({error}); GenEval's file is evaluation_metadata.jsonl") from error
        prompt = found.get("prompt") if isinstance(found, dict) else None
        if not isinstance(prompt, str) or not prompt.strip() or "tag" not in found:
            raise InputError(f"{where} has no `prompt` and `tag`; GenEval's file is evaluation_metadata.jsonl")
        prompts.append(SuitePrompt(prompt, f"{len(prompts):05d}", line))
    return prompts


def _t2i_compbench(path: Path) -> list[SuitePrompt]:
    """A prompt a line, up to a tab. The scorers read the prompt from the picture's name, up to its first underscore."""
    prompts = []
    for line, where in _lines(path):
        text = line.split("\t")[0].strip()
        if not text or {"_", "/", "\0"} & set(text):
            raise InputError(
                f"{where}: prompt {text!r} is empty or has a character that cannot stand in a name: '_' or '/'"
            )
        if len(_compbench_name(text, 0).encode()) > MAX_NAME_BYTES:
            raise InputError(f"{where}: the prompt of {len(text)} characters is too long for the name of a file")
        prompts.append(SuitePrompt(text, text))
    return prompts


def _compbench_name(prompt: str, number: int) -> str:
    return f"{prompt}_{number:06d}.png"


def _dpg_bench(path: Path) -> list[SuitePrompt]:
    """`dpg_bench.csv`, which has a line for each question, or the folder `prompts` with a text file for each prompt.
    The scorer finds a prompt's questions by the picture's name up to its first point."""
    texts: dict[str, str] = {}
    if path.is_dir():
        texts = {file.stem: file.read_text(encoding="utf-8").strip() for file in sorted(path.glob("*.txt"))}
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"item_id", "text"} <= set(rows.fieldnames or ()):
                raise InputError(f"{path} has no columns item_id and text; DPG-Bench's file is dpg_bench.csv")
            for row in rows:
                texts.setdefault(row["item_id"] or "", (row["text"] or "").strip())
    for name, text in texts.items():
        if not text or not name or {".", "/"} & set(name):
            raise InputError(
                f"{path}: item {name!r} has no text, or a name with '.' or '/', which the scorer cannot find"
            )
    return [SuitePrompt(text, name) for name, text in texts.items()]


def _coco(path: Path) -> list[SuitePrompt]:
    """COCO's captions: the first one of each picture, by the picture's number."""
    try:
        annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
        first: dict[int, str] = {}
        for annotation in sorted(annotations, key=lambda one: int(one["id"])):
            first.setdefault(int(annotation["image_id"]), " ".join(annotation["caption"].split()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} has no `annotations` with captions; COCO's file is captions_val2014.json") from error
    prompts = []
    for number, caption in sorted(first.items()):
        name = f"{number:012d}"
        line = {"file": f"{IMAGES}/{name}.png", "image_id": number, "caption": caption}
        prompts.append(SuitePrompt(caption, name, json.dumps(line, ensure_ascii=False)))
    return prompts


SUITES = {
    "geneval": Suite(4, "evaluation_metadata.jsonl", _geneval, scorer_reads=""),
    "dpg_bench": Suite(4, "dpg_bench.csv, or the folder of its prompts", _dpg_bench, grid=True),
    "t2i_compbench": Suite(10, "one of its text files, as color_val.txt", _t2i_compbench, scorer_reads=""),
    "coco": Suite(1, "captions_val2014.json", _coco, count=COCO_PICTURES),
}
