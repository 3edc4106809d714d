"""What the file of a recipe says in words: the commands that come next, and the reasons of its settings."""

import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.recipe import Recipe
from pipeline.own_corpus.choices import LEAST_STEPS, CaptionIds
from pipeline.own_corpus.held_out import HeldOut
from pipeline.own_corpus.machine import Machine
from pipeline.own_corpus.survey import Survey


def recipe_head(survey: Survey, machine: Machine, hours: Mapping[str, float], output: Path, root: str) -> str:
    """The recipe's docstring: what it is for, and the commands that come next, as they are typed in this folder.

    Args:
        survey, machine: what the recipe is for.
        hours: planned hours by name, tokenization among them.
        output: the recipe's file.
        root: folder of the runs, as the user named it; empty for the usual one.
    """
    about = "" if survey.rows_counted else "about "
    flags = f"--recipe {shlex.quote(str(output))}" + (f" --root {shlex.quote(root)}" if root else "")
    prompt = shlex.quote(next(iter(survey.captions_of(survey.looks[0]))).split("\n")[0][:60])
    steps = (
        ("tokenize", "", "pictures and captions become codes and ids, once"),
        *((("train_lm", "", "a small language model of the captions"),) if not machine.gpus else ()),
        ("train_stage", " --stage all", f"about {duration(sum(hours.values()) - hours['tokenization'])}"),
        ("evaluate", "", "scores and a sheet of pictures on rows that no stage trained on"),
        ("generate", f" --prompt {prompt}", "a picture of your own words"),
    )
    commands = "\n".join(f"    # {what}\n    {_python()} -m jobs.{job} {flags}{more}" for job, more, what in steps)
    return (
        f"A recipe for {survey.source.url}, written by jobs/new_recipe.py on {time.strftime('%Y-%m-%d')}.\n\n"
        f"It is for {about}{survey.rows:,} rows, and for {machine}. What comes next:\n\n{commands}\n\n"
        "Change it freely. Settings that are not here have their usual values, which the classes of pipeline/config\n"
        "state. A value can also be overridden for one command, as with --set stages.0.steps=100, and --dry-run shows\n"
        "the plan of train_stage.\n"
    )


def duration(hours: float) -> str:
    """A planned time as text, as in `2.5 hours`."""
    if hours >= 2:
        return f"{hours:.1f} hours"
    seconds = 3600 * hours
    if seconds < 10:
        return "under 10 seconds"
    return f"{seconds / 60:.0f} minutes" if seconds >= 150 else f"{round(seconds, -1):.0f} seconds"


def recipe_reasons(
    recipe: Recipe, survey: Survey, held_out: HeldOut, ids: CaptionIds, most_hours: float
) -> dict[str, str]:
    """The comments in the recipe, by setting."""
    held = f"held out: {held_out.share:.1%} of the rows, by the ends of their names, and never trained on"
    return {
        "name": "also the run's folder under --root",
        "tokenization.caption_columns": "the language of each caption column",
        "tokenization.max_caption_ids": f"longer captions are cut: {ids.cut_share:.0%} of those looked at",
        "tokenization.size_px": "the square that is encoded; 16 px a code",
        "tokenization.hr_where": "smaller pictures would only be enlarged",
        "tokenization.encoder_dtype": "what this machine computes fastest with",
        "language_expert.where": "it does not read the captions that are held out, either",
        "embedding_noise_std": "small models need it: docs/recipes.md",
        "scaling": "the ranks of training, and the cores of each",
        "evaluation": "how pictures are drawn: lower temperature and higher guidance for plainer ones",
        "plan": "what the dry run assumes",
        "vqgan_folder": "put the weights there, or name another folder: docs/weights.md",
        "language_expert_folder": "put the weights there, or name another folder: docs/weights.md",
        "stages.0.sources": held,
        "stages.0.task_shares": "captioning teaches what words mean, text to image what they look like",
        "stages.0.text_to_image_noise": "codes before are hidden at random: else a small corpus is learned by heart",
        "stages.0.steps": _steps_reason(recipe, survey, held_out, most_hours),
        "stages.0.seq_len": "tokens of a row, in which several samples lie",
        "stages.0.micro_batch_size": "rows that a rank takes at once: lower it if memory is short",
        "stages.0.validate_every_steps": "the loss on held-out rows",
        "stages.0.sample_prompts": "pictures of these are drawn while it trains, the likeliest code each time",
    }


def _steps_reason(recipe: Recipe, survey: Survey, held_out: HeldOut, most_hours: float) -> str:
    samples = sum(stage.steps * stage.global_batch_size for stage in recipe.stages)
    times = samples / (survey.usable_rows * (1 - held_out.share))
    least = f", as {LEAST_STEPS} steps are the least" if recipe.stages[0].steps == LEAST_STEPS else ""
    return f"all stages see each row about {times:.2g} times{least}; at most {most_hours:g} h in all"


def _python() -> str:
    """This Python as a command: relative to the current folder if it is in it, as in `.venv/bin/python`."""
    inside = Path(sys.executable).is_relative_to(Path.cwd())
    return shlex.quote(os.path.relpath(sys.executable) if inside else sys.executable)
