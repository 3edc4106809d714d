#!/usr/bin/env -S python -P
"""Turns a checkpoint into a Hugging Face folder that others can load: config, weights, tokenizer, VQ-GAN, model card.

With this project installed and `import pipeline.model`, `AutoModelForCausalLM.from_pretrained` loads it. Neither the
language expert nor the checkpoint is ever in memory: weights pass through in pieces.
"""

import jobs  # noqa: F401  # isort: skip
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.common.cli import JobOptions, run_job
from pipeline.architecture.mars_config import MarsConfig
from pipeline.checkpoints.manifest import Checkpoint, finished_checkpoint, newest_complete
from pipeline.config.recipe import recipe_of
from pipeline.errors import InputError, UsageError
from pipeline.export.export import export_model
from pipeline.reports.model_card import model_card
from pipeline.runs.language_expert_check import base_config
from pipeline.runs.paths import RunPaths, in_package_cache, language_expert_name
from pipeline.runs.token_check import checked_fingerprint
from pipeline.runtime.terminal import say
from tokenization.text_tokenizer import load_text_tokenizer
from tokenization.vqgan.formats import load_vqgan, save_vqgan

VQGAN_FOLDER = "vqgan"
STAGE_FOLDER = re.compile(r"stage(\d+)")


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `export_model`."""

    checkpoint: str = ""
    """A run's folder, for its newest finished checkpoint; a stage's folder; or one checkpoint, finished or not
    (default: the run of --recipe and --root). The recipe is the one that the run kept; of a checkpoint in S3, that of
    --recipe."""
    out: str = ""
    """New folder for the model."""
    visual_only: bool = False
    """Leave the language expert out: half of the size. Loading then fetches it from where --language-expert says."""
    language_expert: str = ""
    """With --visual-only: folder or hub name of the language expert, as whoever loads the model finds it (default: as
    the recipe names it)."""


def main(options: Options) -> None:
    """Exports it."""
    if not options.out:
        raise UsageError("name a new folder for the model: --out FOLDER")
    out = Path(options.out)
    if in_package_cache() and not out.is_absolute():
        raise UsageError(f"--out {options.out!r}: the job runs inside Ray's package cache; give an absolute path")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {options.out!r} is not empty; name a new folder")
    if options.language_expert and not options.visual_only:
        raise UsageError("--language-expert is for --visual-only; leave it out, or add that")
    paths, number, checkpoint = find_checkpoint(options)
    recipe = paths.recipe
    fingerprint = checked_fingerprint(recipe, paths)
    vqgan = load_vqgan(paths.vqgan)
    choices = recipe.model_options()
    config = MarsConfig.from_language_expert(base_config(paths), fingerprint.codebook_size, **choices)
    beside = (options.language_expert or language_expert_name(paths)) if options.visual_only else ""

    def finish(folder: Path) -> None:
        save_vqgan(vqgan, folder / VQGAN_FOLDER)
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2, ensure_ascii=False))
        card = model_card(paths, checkpoint, number, config, vqgan, VQGAN_FOLDER, beside)
        (folder / "README.md").write_text(card)

    say(f"export_model: {checkpoint}, of stage {number} of {recipe.name!r}")
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    export_model(
        paths.base, checkpoint, fingerprint.codebook_size, tokenizer, out, beside=beside, finish=finish, **choices
    )
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"export_model: {size / 1e9:.2f} GB are in {out}; its README.md says how to load it")


def find_checkpoint(options: Options) -> tuple[RunPaths, int, Checkpoint]:
    """The run, the stage's number, and the checkpoint that `--checkpoint` names.

    Raises:
        InputError: there is none, or no run around it.
    """
    _, paths = options.resolve()
    place = options.checkpoint.rstrip("/")
    if "://" in place:
        checkpoint = finished_checkpoint(place, allow_unfinished=True)
        return paths, _number(place, str(checkpoint)), checkpoint
    folder = Path(place).absolute() if place else paths.run
    around = [folder, *folder.parents]
    stage_folder = next((each for each in around if (each / "recipe.json").exists() and _is_stage(each)), None)
    run = stage_folder.parent if stage_folder else folder
    trained = [each for each in run.glob("stage*") if _is_stage(each) and (each / "recipe.json").exists()]
    if not trained:
        raise InputError(
            f"{str(folder)!r} has no stage that was trained; name a run's folder, a stage's, or a checkpoint"
        )
    if stage_folder:
        paths, number = _of_stage(stage_folder)
        where = paths.checkpoints(number) if folder == stage_folder else folder
        return paths, number, finished_checkpoint(where, allow_unfinished=True)
    for each in sorted(trained, key=lambda each: _number(each.name), reverse=True):
        paths, number = _of_stage(each)
        found = newest_complete(paths.checkpoints(number))
        if found and found.manifest.finished:
            return paths, number, found
    raise InputError(f"run {str(run)!r} has no finished stage; name one of its checkpoints to export that")


def _of_stage(folder: Path) -> tuple[RunPaths, int]:
    """The run as the stage's own recipe has it, and the stage's number."""
    return RunPaths(folder.parent, recipe_of(json.loads((folder / "recipe.json").read_text()))), _number(folder.name)


def _is_stage(folder: Path) -> bool:
    return STAGE_FOLDER.fullmatch(folder.name) is not None


def _number(*places: str) -> int:
    for place in places:
        if found := re.findall(r"(?:^|/)stage(\d+)(?:/|$)", place):
            return int(found[-1])
    raise InputError(f"{places[0]!r} does not say which stage it is of; keep checkpoints under stage1, stage2, ...")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
