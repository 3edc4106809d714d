"""A user's request to `jobs/generate.py`, checked before anything starts."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe
from pipeline.errors import InputError, UsageError
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.pictures import HighResolution, positions_after_prompt
from pipeline.generation.sampling import GREEDY, MAX_SEED, Sampling
from pipeline.requests.prompts import Prompt, read_prompts
from pipeline.runs.language_expert_check import base_config
from pipeline.runs.paths import RunPaths
from tokenization.config.pictures import Limits, Transform
from tokenization.corpora.pictures import load_picture
from tokenization.table.token_table import Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer, text_ids

PROMPT_MULTIPLE = 64
"""Prompts of documents are padded to a multiple of this number of ids, so that shapes seldom depend on other
prompts."""


@dataclass(frozen=True)
class GenerationRequest:
    """A run and the request to it.

    Attributes:
        recipe, paths, fingerprint: recipe and paths of the run, and the fingerprint of its tokens.
        task: `picture`, `caption` or `joint`.
        sampling: sampling of codes and of the text of documents.
        high: high resolution to draw, or None.
        documents: limits of joint generation.
        caption_sampling: sampling of captions.
        footer: text on every sheet of pictures.
        num_drafts: codes that are drafted for each pass of a picture; 0 for plain decoding.
        num_candidates: see `EvaluationConfig`.
    """

    recipe: Recipe
    paths: RunPaths
    fingerprint: Fingerprint
    task: str
    sampling: Sampling
    high: HighResolution | None
    documents: DocumentLimits
    caption_sampling: Sampling = GREEDY
    footer: str = ""
    num_drafts: int = 0
    num_candidates: int = 1


def high_resolution(
    recipe: Recipe, fingerprint: Fingerprint, wanted: str = "auto", size_px: int = 0
) -> HighResolution | None:
    """Returns the high resolution that the last stage was trained for, or None if it was not or none is wanted.

    Args:
        recipe: recipe of the run.
        fingerprint: fingerprint of its tokens.
        wanted: `yes`, `no` or `auto`.
        size_px: side of the requested pictures; 0 leaves it to `wanted`.

    Raises:
        UsageError: the run was not trained for the requested size.
        InputError: it was, but its tokens have no high resolution.
    """
    stage, sizes = recipe.stages[-1], {"no": fingerprint.transform["size_px"]}
    if stage.needs_high_codes:
        if not fingerprint.num_codes_hr:
            raise InputError("the last stage trains high resolution, but the tokens have none; tokenize them again")
        sizes["yes"] = fingerprint.transform["size_hr_px"]
    known = ", ".join(f"{size} px" for size in sizes.values())
    if size_px and size_px not in sizes.values():
        raise UsageError(f"--resolution {size_px}: this run was trained for {known}")
    if wanted == "yes" and "yes" not in sizes:
        raise UsageError(f"--high-resolution yes: the last stage has no task high_resolution; it draws {known}")
    if size_px and wanted != "auto" and sizes[wanted] != size_px:
        raise UsageError(f"--resolution {size_px} and --high-resolution {wanted} contradict each other; leave one out")
    if "yes" not in sizes or wanted == "no" or size_px == sizes["no"]:
        return None
    return HighResolution.of_stage(stage, fingerprint.num_codes_hr)


def checked_prompts(request: GenerationRequest, texts: tuple[str, ...], file: str) -> tuple[list[Prompt], int]:
    """Returns the prompts, and the number of ids they are padded to.

    A picture's prompt may have as many ids as a caption in training. A document's prompt may use the positions that the
    limits leave.

    Raises:
        UsageError: a prompt is empty or too long, or the limits leave no room for a prompt.
        InputError: see `read_prompts` and `base_config`.
    """
    recipe, paths, joint = request.recipe, request.paths, request.task == "joint"
    max_ids = longest_prompt(request)
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)

    def num_ids(lines: list[str]) -> list[int]:
        return [len(ids) for ids in text_ids(tokenizer, lines)]

    prompts = read_prompts(texts, file, num_ids, max_ids)
    if not joint:
        return prompts, max_ids
    longest = max(num_ids([prompt.text for prompt in prompts]))
    return prompts, min(max_ids, -(-longest // PROMPT_MULTIPLE) * PROMPT_MULTIPLE)


def longest_prompt(request: GenerationRequest) -> int:
    """The maximum number of ids of a prompt: of a picture's as of a caption in training, of a document's what the
    limits leave.

    Raises:
        UsageError: the limits leave no room for a prompt.
        InputError: see `base_config`.
    """
    positions: int = base_config(request.paths).max_position_embeddings
    joint = request.task == "joint"
    taken = request.documents.max_ids if joint else positions_after_prompt(request.documents.num_codes, request.high)
    room = positions - taken
    if room < 1:
        raise UsageError(
            f"what is asked for takes {taken} positions after the prompt, the model has {positions}; "
            "lower --max-pictures or --max-text-ids"
        )
    return room if joint else min(room, request.fingerprint.max_caption_ids)


def prompt_rows(prompts: list[Prompt], num_each: int, seed: int) -> list[dict[str, Any]]:
    """Returns rows for the generators: id, prompt, language, seed."""
    return [
        {
            "id": prompt.id,
            "prompt": prompt.text,
            "language": prompt.language or "",
            "seed": ((seed if prompt.seed is None else prompt.seed) + number) & MAX_SEED,
        }
        for prompt in prompts
        for number in range(num_each)
    ]


def caption_rows(files: tuple[str, ...], language: str, seed: int, fingerprint: Fingerprint) -> list[dict[str, Any]]:
    """Returns rows for the generators: image, language, seed, and pixels uint8 [S, S, 3] after the tokens' transform.

    Raises:
        InputError: pictures cannot be read; the message names all of them.
    """
    limits = Limits(**{name: fingerprint.transform[name] for name in asdict(Limits())})
    transform = Transform(fingerprint.transform["size_px"], limits=limits)
    rows, problems = [], []
    for file in files:
        try:
            pixels = load_picture(Path(file).read_bytes(), transform).pixels
        except (OSError, ValueError) as error:
            problems.append(f"{file!r}: {error}")
            continue
        rows.append({"image": file, "language": language, "seed": seed, "pixels": pixels})
    if problems:
        raise InputError(f"pictures that cannot be captioned: {'; '.join(problems)}")
    return rows
