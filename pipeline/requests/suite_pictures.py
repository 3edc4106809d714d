"""Draws a benchmark's prompts into the folder that its scorer reads, and records everything that decides a score."""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline.errors import InputError
from pipeline.evaluation.suites import SUITES, SuitePrompt, picture_file, write_lines
from pipeline.export.export import exported_from
from pipeline.generation.sampling import MAX_SEED
from pipeline.ledger.account import Counts
from pipeline.requests.generators import generator_config, make_export, run_generators
from pipeline.requests.request import GenerationRequest, longest_prompt
from pipeline.runs.attempt import ledger_attempt
from pipeline.runtime.terminal import say, say_error
from tokenization.dtypes import fast_dtype
from tokenization.files.atomic_writing import partial_files, write_atomically
from tokenization.text_tokenizer import load_text_tokenizer, text_ids

RECORD_FILE = "benchmark.json"
PACKAGES = ("mars-on-ray", "torch", "transformers", "ray")
"""Packages whose versions are recorded."""
GRID_COLUMNS = 2


@dataclass(frozen=True)
class SuiteRequest:
    """What is drawn of a suite, and where.

    Attributes:
        suite: a name of `SUITES`.
        prompts: its prompts.
        source: the prompt file, or a folder of them.
        count: number of the prompts that were drawn from the file by the seed; 0 for all.
        samples: pictures of each prompt, with consecutive seeds.
        batch_size: pictures drawn at once; it decides their last bits.
        output: the folder.
    """

    suite: str
    prompts: list[SuitePrompt]
    source: Path
    count: int
    samples: int
    batch_size: int
    output: Path


def draw_suite(request: GenerationRequest, wanted: SuiteRequest) -> dict[str, Any]:
    """Draws the pictures that `output` does not have yet, in high resolution if the request asks for it.

    Returns:
        The record, which is also in `RECORD_FILE`. The same request makes the same pictures.

    Raises:
        InputError: `output` holds something else, or pictures of another request.
    """
    recipe, paths, suite = request.recipe, request.paths, SUITES[wanted.suite]
    cut = _num_cut(request, [prompt.text for prompt in wanted.prompts])
    if cut:
        say_error(f"{cut} of {len(wanted.prompts)} prompts are cut to {longest_prompt(request)} ids, as captions are")
    _check_begun(wanted.output)
    make_export(recipe, paths, request.fingerprint)
    record = _record(request, wanted, cut)
    _begin(wanted.output, record)
    write_lines(wanted.suite, wanted.output, wanted.prompts)
    rows = _missing_rows(request, wanted)
    total = len(wanted.prompts) * wanted.samples
    say(f"benchmark_prompts: {total} pictures of {len(wanted.prompts)} prompts, {total - len(rows)} are there already")
    if rows:
        config = generator_config(request, wanted.batch_size, with_vqgan=True)
        with ledger_attempt(paths, "benchmark_prompts", recipe.scaling.use_gpu) as ledger:
            made = run_generators(config, rows, recipe, ledger)
            _write_pictures(made, wanted.output, wanted.samples if suite.grid else 1, bool(request.high))
            ledger.add.remote(Counts(samples=len(rows)))
    scorer = wanted.output / suite.scorer_reads
    say(f"benchmark_prompts: all pictures are there; give the scorer {scorer}; {RECORD_FILE} says how they were drawn")
    return record


def _num_cut(request: GenerationRequest, texts: list[str]) -> int:
    """How many prompts are longer than the model takes, which generation cuts."""
    tokenizer = load_text_tokenizer(request.recipe.text_tokenizer, request.paths.text)
    most = longest_prompt(request)
    return sum(len(ids) > most for ids in text_ids(tokenizer, texts))


def _missing_rows(request: GenerationRequest, wanted: SuiteRequest) -> list[dict[str, Any]]:
    rows = []
    for number, prompt in enumerate(wanted.prompts):
        for sample in range(wanted.samples):
            file = picture_file(wanted.suite, prompt, number, sample, wanted.samples)
            if not (wanted.output / file).exists():
                seed = (request.sampling.seed + sample) & MAX_SEED
                rows.append({"prompt": prompt.text, "seed": seed, "file": file, "sample": sample})
    return rows


def _write_pictures(made: Iterable[dict[str, Any]], output: Path, of_file: int, high: bool) -> None:
    """Writes each file, atomically, once its `of_file` pictures are there."""
    waiting: dict[str, dict[int, bytes]] = {}
    for row in made:
        pictures = waiting.setdefault(row["file"], {})
        pictures[int(row["sample"])] = row["high_png" if high else "png"]
        if len(pictures) == of_file:
            _write(output / row["file"], grid_of([pictures[sample] for sample in sorted(pictures)]))
            del waiting[row["file"]]


def _write(file: Path, content: bytes) -> None:
    write_atomically(file, lambda partial: partial.write_bytes(content))


def grid_of(pngs: Sequence[bytes]) -> bytes:
    """One PNG of square pictures of a size, two a row; a single one as it is."""
    if len(pngs) == 1:
        return pngs[0]
    pictures = [Image.open(io.BytesIO(png)) for png in pngs]
    side = pictures[0].width
    sheet = Image.new("RGB", (GRID_COLUMNS * side, -(-len(pictures) // GRID_COLUMNS) * side))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % GRID_COLUMNS * side, number // GRID_COLUMNS * side))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()


def _record(request: GenerationRequest, wanted: SuiteRequest, cut: int) -> dict[str, Any]:
    recipe, fingerprint, high = request.recipe, request.fingerprint, request.high
    device = "cuda" if recipe.scaling.use_gpu else "cpu"
    files = sorted(wanted.source.glob("*.txt")) if wanted.source.is_dir() else [wanted.source]
    content = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    seed = request.sampling.seed
    return {
        "suite": wanted.suite,
        "prompt_file": wanted.source.name,
        "prompt_file_sha256": content,
        "prompts": len(wanted.prompts),
        "prompts_drawn_by_seed": wanted.count,
        "prompts_cut": cut,
        "max_prompt_ids": longest_prompt(request),
        "pictures_a_prompt": wanted.samples,
        "seeds": [(seed + sample) & MAX_SEED for sample in range(wanted.samples)],
        "sampling": asdict(request.sampling),
        "resolution_px": fingerprint.transform["size_hr_px" if high else "size_px"],
        "high_resolution": asdict(high) | {"role": high.role.name} if high else None,
        "batch_size": wanted.batch_size,
        "run": recipe.name,
        "checkpoint": exported_from(request.paths.export),
        "vqgan_sha256": fingerprint.vq_sha256,
        "text_vocabulary_sha256": fingerprint.text_vocabulary_sha256,
        "device": device,
        "dtype": str(fast_dtype(torch.device(device))).removeprefix("torch."),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _check_begun(output: Path) -> None:
    """Raises InputError if the folder holds files of something else: the scorers score all they find."""
    if output.exists() and any(output.iterdir()) and not (output / RECORD_FILE).exists():
        raise InputError(f"--output {str(output)!r} is not empty, and the scorer scores all it finds; name a new one")


def _begin(output: Path, record: dict[str, Any]) -> None:
    """Writes the record into a new folder, or compares it with that of a folder that was begun.

    Raises:
        InputError: the folder was begun with other values.
    """
    path, wanted = output / RECORD_FILE, json.loads(json.dumps(record))
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        for name in wanted:
            if begun.get(name) != wanted[name]:
                raise InputError(
                    f"--output {str(output)!r} was begun with {name} {begun.get(name)!r}, and now it is "
                    f"{wanted[name]!r}; undo the change, or name a new folder"
                )
        for partial in partial_files(output):  # left by a kill, where a scorer would find them
            partial.unlink()
        return
    text = json.dumps(record, indent=2, ensure_ascii=False)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
