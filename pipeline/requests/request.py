"""What a user asks `jobs/generate.py` for: checked before anything starts, and written down when it is made."""

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.recipe import Recipe
from pipeline.config.vocabulary import Role
from pipeline.errors import InputError, UsageError
from pipeline.generation.documents import DocumentLimits
from pipeline.generation.pictures import HighResolution, positions_after_prompt
from pipeline.generation.sampling import MAX_SEED, Sampling
from pipeline.pages.prompt_results import file_name, save_grid, save_index, save_page, save_picture
from pipeline.requests.prompts import Prompt, read_prompts
from pipeline.runs.language_expert_check import base_config
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say
from tokenization.config.pictures import Limits, Transform
from tokenization.corpora.pictures import load_picture
from tokenization.demo.openmoji import ATTRIBUTION
from tokenization.table.token_table import Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer, text_ids

PROMPT_MULTIPLE = 64
"""A document's prompts are padded to a multiple of this many ids: shapes then seldom depend on the other prompts."""


@dataclass(frozen=True)
class Request:
    """A job's settings: the run's, and what is asked of it.

    Attributes:
        task: `picture`, `caption` or `joint`.
        sampling: how codes are chosen.
        high: high-resolution pictures; None for none.
        documents: limits of joint generation.
    """

    recipe: Recipe
    paths: RunPaths
    fingerprint: Fingerprint
    task: str
    sampling: Sampling
    high: HighResolution | None
    documents: DocumentLimits


def high_resolution(
    recipe: Recipe, fingerprint: Fingerprint, wanted: str = "auto", size_px: int = 0
) -> HighResolution | None:
    """The high resolution that the last stage has trained for; None where it has not, or none is wanted.

    Args:
        recipe: the run's.
        fingerprint: of its tokens.
        wanted: `yes`, `no` or `auto`.
        size_px: side of the pictures that are asked for; 0 for whatever `wanted` says.

    Raises:
        UsageError: the run was not trained for what is asked.
        InputError: it was, but its tokens have no high resolution.
    """
    stage, sizes = recipe.stages[-1], {"no": fingerprint.transform["size_px"]}
    if stage.task_shares.get("high_resolution", 0.0) > 0:
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
    assert fingerprint.num_codes_hr
    role = Role[stage.high_resolution_role.upper()]
    return HighResolution(role, stage.high_resolution_group, fingerprint.num_codes_hr)


def checked_prompts(request: Request, texts: tuple[str, ...], file: str) -> tuple[list[Prompt], int]:
    """The prompts, and to how many ids they are padded.

    A picture's prompt may have as many ids as a caption had in training; a document's, as many as the model's positions
    leave.

    Raises:
        UsageError: a prompt is empty or too long, or the limits leave no room for one.
        InputError: see `read_prompts` and `base_config`.
    """
    recipe, paths = request.recipe, request.paths
    positions = base_config(paths).max_position_embeddings
    joint = request.task == "joint"
    taken = request.documents.max_ids if joint else positions_after_prompt(request.documents.num_codes, request.high)
    room = positions - taken
    if room < 1:
        raise UsageError(
            f"what is asked for takes {taken} positions after the prompt, the model has {positions}; "
            "lower --max-pictures or --max-text-ids"
        )
    max_ids = room if joint else min(room, request.fingerprint.max_caption_ids)
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)

    def num_ids(lines: list[str]) -> list[int]:
        return [len(ids) for ids in text_ids(tokenizer, lines)]

    prompts = read_prompts(texts, file, num_ids, max_ids)
    if not joint:
        return prompts, max_ids
    longest = max(num_ids([prompt.text for prompt in prompts]))
    return prompts, min(max_ids, -(-longest // PROMPT_MULTIPLE) * PROMPT_MULTIPLE)


def prompt_rows(prompts: list[Prompt], num_each: int, seed: int) -> list[dict[str, Any]]:
    """Rows for the generators: id, prompt, language, seed."""
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
    """Rows for the generators: image, language, seed, and pixels uint8 [S, S, 3] after the tokens' transform.

    Raises:
        InputError: pictures that cannot be read, all of them named.
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


def save_pictures(request: Request, folder: Path, made: Iterable[dict[str, Any]]) -> None:
    """Pictures as they come, then the indices and the grid."""
    rows = []
    for row in made:
        name = file_name(row["row_number"], row["prompt"])
        picture = {"picture": save_picture(folder, name, row["png"]), "codes": row["drawn_codes"]}
        if request.high:
            picture["high_picture"] = save_picture(folder, f"{name}_high", row["high_png"])
            picture["high_codes"] = row["drawn_high_codes"]
        rows.append(_plain(row) | picture)
    rows.sort(key=lambda row: row["row_number"])
    save_index(folder, [_how(request) | row for row in rows])
    columns: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        cells = columns.setdefault(row["id"], [])
        cells += [(row["prompt"], row[name]) for name in ("picture", "high_picture") if name in row]
    save_grid(folder, list(columns.values()), _footer(request))
    for row in rows[:10]:
        say(f"generate: {row['prompt']!r} is drawn in {folder / row.get('high_picture', row['picture'])}")


def save_captions(request: Request, folder: Path, made: Iterable[dict[str, Any]]) -> None:
    """The indices: image, language, caption, and the codes it was read from."""
    rows = sorted(made, key=lambda row: row["row_number"])
    save_index(folder, [_plain(row) | {"caption": row["caption"], "codes": row["codes"]} for row in rows])
    for row in rows[:10]:
        say(f"generate: {row['image']}: {row['caption']}")


def save_documents(request: Request, folder: Path, made: Iterable[dict[str, Any]]) -> None:
    """Pictures as they come, then the indices, the page, and a grid where there are pictures."""
    rows = []
    for row in made:
        segments = json.loads(row["segments"])
        for number, segment in enumerate(segments):
            if "png" in segment:
                name = f"{file_name(row['row_number'], row['prompt'])}_{number}"
                segment["picture"] = save_picture(folder, name, base64.b64decode(segment.pop("png")))
        rows.append(_plain(row) | {"segments": segments})
    rows.sort(key=lambda row: row["row_number"])
    how = _how(request) | {
        "max_pictures": request.documents.max_pictures,
        "max_text_ids": request.documents.max_text_ids,
    }
    save_index(folder, [how | row for row in rows])
    save_page(folder, rows)
    pictures = [[(row["prompt"], s["picture"]) for s in row["segments"] if "picture" in s] for row in rows]
    if columns := [column for column in pictures if column]:
        save_grid(folder, columns, _footer(request))
    say(f"generate: {sum(map(len, pictures))} pictures in {len(rows)} documents")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    names = ("row_number", "id", "prompt", "image", "language", "seed")
    values = {name: row[name] for name in names if name in row}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def _how(request: Request) -> dict[str, Any]:
    values = asdict(request.sampling)
    return {name: value for name, value in values.items() if name != "seed"}


def _footer(request: Request) -> str:
    return "" if request.recipe.corpus.path else ATTRIBUTION
