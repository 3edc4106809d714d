#!/usr/bin/env -S python -P
"""Turns a checkpoint into a Hugging Face folder that others can load: config, weights, tokenizer, VQ-GAN, model card.

With this project installed and `import pipeline.model`, `AutoModelForCausalLM.from_pretrained` loads it. Neither the
language expert nor the checkpoint is ever whole in memory: weights are copied in pieces.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path

from jobs.common.cli import JobOptions, run_job
from pipeline.errors import UsageError
from pipeline.runs.paths import in_package_cache, language_expert_name
from pipeline.runtime.terminal import say


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `export_model`."""

    checkpoint: str = ""
    """A run's folder, for its newest finished checkpoint; a stage's folder; or one checkpoint, finished or not
    (default: the run of --recipe and --root). The recipe is the one stored in the run; for a checkpoint in a bucket,
    that of --recipe."""
    out: str = ""
    """New folder for the model."""
    averaged: bool = False
    """Export the moving average of the trained weights, which a stage with ema_decay keeps."""
    visual_only: bool = False
    """Leave the language expert out, which halves the size. Loading then fetches it from --language-expert."""
    language_expert: str = ""
    """With --visual-only: folder or hub name from which the exported model loads its language expert (default: the
    recipe's)."""


def main(options: Options) -> None:
    from pipeline.reports.model_export import export_with_card
    from pipeline.runs.find_checkpoint import find_checkpoint

    if not options.out:
        raise UsageError("name a new folder for the model: --out FOLDER")
    out = Path(options.out)
    if in_package_cache() and not out.is_absolute():
        raise UsageError(f"--out {options.out!r}: the job runs inside Ray's package cache; give an absolute path")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {options.out!r} is not empty; name a new folder")
    if options.language_expert and not options.visual_only:
        raise UsageError("--language-expert is for --visual-only; leave it out, or add that")
    _, paths = options.resolve()
    paths, number, checkpoint = find_checkpoint(options.checkpoint, paths)
    say(f"export_model: {checkpoint}, of stage {number} of {paths.recipe.name!r}")
    language_expert = (options.language_expert or language_expert_name(paths)) if options.visual_only else ""
    export_with_card(paths, number, checkpoint, out, language_expert, options.averaged)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say(f"export_model: {size / 1e9:.2f} GB are in {out}; its README.md says how to load it")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
