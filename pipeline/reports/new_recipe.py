"""Writes a recipe for a corpus that a user brings, with a sheet of its pictures, its plan and the expected hours."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.own_corpus.choices import CPU_EPOCHS, GPU_EPOCHS, CaptionIds, Wishes, choose_recipe, hours_of
from pipeline.own_corpus.held_out import HeldOut, held_out_rows
from pipeline.own_corpus.machine import Machine
from pipeline.own_corpus.recipe_file import recipe_source
from pipeline.own_corpus.survey import Survey, survey_corpus
from pipeline.pages.sheets import picture_sheet
from pipeline.planning.recipe_plan import RecipePlan
from pipeline.planning.tokenization_work import tokenization_work
from pipeline.reports.dry_run import batch_table, memory_table, model_table, work_table
from pipeline.runs.paths import RunPaths, run_paths
from pipeline.runtime.terminal import say, tables_to
from tokenization.config.sources import PACKAGED
from tokenization.files.atomic_writing import write_atomically, write_png
from tokenization.job.checks import keep_facts, make_fingerprint
from tokenization.job.encoder import check_encoder
from tokenization.job.rows import Tools
from tokenization.text_tokenizer import load_text_tokenizer, text_ids
from tokenization.vqgan.image_tokenizer import ImageTokenizer
from tokenization.vqgan.quality import quality_of

SHEET_FILE = "corpus.png"
"""File in the run's folder: pictures of the corpus, and what the VQ-GAN's codes keep of them."""
SHEET_PICTURES, SHEET_COLUMNS = 12, 6
LEAST_ROWS = 20
"""Fewer usable rows are no corpus: some must be held out."""
PROMPTS = 4
LONGEST_PROMPT = 200
"""Letters of a caption that becomes a sample prompt, at most."""
POOR_PSNR_DB = 20.0
"""Below this, pictures drawn from codes are visibly worse than the corpus's. Our own judgement."""


def write_recipe(
    place: str, layout: str, num_samples: int, machine: Machine, wishes: Wishes, root: str, output: Path, as_json: bool
) -> dict[str, Any]:
    """Looks at the corpus, chooses a recipe, writes it, and shows its plan.

    Args:
        place, layout, num_samples: see `survey_corpus`.
        machine, wishes: what the recipe is for.
        root: folder of the runs.
        output: the recipe's file, which must not exist.
        as_json: print the tables to standard error.

    Returns:
        What was found and planned, as plain values.

    Raises:
        UsageError: the file exists, the corpus is too small, or no recipe fits the machine.
        InputError: the corpus, the VQ-GAN or the tokenizer cannot be used.
    """
    if output.exists():
        raise UsageError(f"--output {str(output)!r} exists; remove it, or name another file")
    paths = run_paths(root, Recipe(wishes.name))
    say(f"new_recipe: looking at {place}")
    survey = survey_corpus(place, layout, num_samples, 256 if machine.gpus else 128)
    if survey.usable_rows < LEAST_ROWS:
        raise UsageError(f"corpus {place!r} has {survey.usable_rows} usable rows; at least {LEAST_ROWS} are needed")
    for line in findings(survey):
        say(f"new_recipe: {line}")
    held_out = held_out_rows(survey.names, survey.usable_rows)
    ids = caption_ids(survey, wishes.language_expert or PACKAGED, paths.text)
    say(f"new_recipe: {ids.cut_share:.0%} of the captions have more than {ids.most} ids, and are cut")
    recipe, plan = choose_recipe(survey, machine, ids, held_out, sample_prompts(survey), wishes)
    psnr_db = _write_sheet(survey, RunPaths(paths.run, recipe))
    if not machine.gpus:
        _check_tools(RunPaths(paths.run, recipe))
    hours = planned_hours(plan, machine)
    head = _head(survey, machine, hours, output)
    text = recipe_source(recipe, head, _reasons(machine, held_out, ids, wishes))
    write_atomically(output, lambda partial: partial.write_text(text))
    console = tables_to(as_json)
    for table in (model_table(plan), *map(batch_table, plan.stages), memory_table(plan), work_table(plan)):
        console.print(table)
    console.print(hours_table(hours, machine))
    say(f"new_recipe: {output} is written; its head has the commands that come next")
    return {
        "recipe": str(output),
        "name": recipe.name,
        **_found(survey),
        "mean_caption_ids": ids.mean,
        "captions_cut_share": ids.cut_share,
        "held_out": held_out.query,
        "held_out_share": held_out.share,
        "vq_psnr_db": psnr_db,
        "steps": [stage.steps for stage in recipe.stages],
        "planned_hours": hours,
        "flop": plan.flop,
    }


def _found(survey: Survey) -> dict[str, Any]:
    return {
        "layout": survey.source.layout,
        "rows": survey.rows,
        "rows_counted": survey.rows_counted,
        "looked_at": len(survey.looks) + sum(survey.rejects.values()),
        "rejects": survey.rejects,
        "captions": {column.name: column.language for column in survey.columns},
        "columns_not_taken": list(survey.not_taken),
    }


def _check_tools(paths: RunPaths) -> None:
    """Checks VQ-GAN and vocabulary as tokenization does, which then takes the result from the run's folder.

    Raises:
        InputError: see `make_fingerprint` and `check_encoder`.
    """
    recipe = paths.recipe
    tools = Tools(paths.vqgan, paths.text_source, paths.text)
    keep_facts(recipe.tokenization, tools, make_fingerprint(recipe.tokenization, tools))
    check_encoder(recipe.tokenization, tools, recipe.tokenizers)


def findings(survey: Survey) -> list[str]:
    """What the survey found, a line a subject."""
    sides = np.asarray([(look.width, look.height) for look in survey.looks])
    low, middle, high = (f"{int(side)}" for side in np.quantile(sides.min(1), (0.1, 0.5, 0.9)))
    looked_at = len(survey.looks) + sum(survey.rejects.values())
    about = "" if survey.rows_counted else "about "
    lines = [
        f"{about}{survey.rows:,} rows in {survey.shards:,} shards of layout {survey.source.layout}",
        f"pictures' shorter side: {middle} px in the middle, {low} to {high} px for four in five",
        f"{len(survey.looks)} of {looked_at} looked at can be used"
        + "".join(f", {count} x {reason}" for reason, count in survey.rejects.items()),
    ]
    for column in survey.columns:
        line = f"captions in {column.name!r}: {column.language}, {column.filled:.0%} of the rows"
        if column.other_script > 0.05:
            line += f"; {column.other_script:.0%} are in other scripts, and the model knows en and zh alone"
        lines.append(line)
    if survey.not_taken:
        names = ", ".join(map(repr, survey.not_taken))
        lines.append(f"not taken: {names}; if captions are in it, add it to the recipe's caption_columns")
    return lines


def caption_ids(survey: Survey, tokenizer_source: str, cache: Path) -> CaptionIds:
    """The lengths of the captions that were looked at."""
    lines = text_ids(
        load_text_tokenizer(tokenizer_source, cache), [text for of in survey.texts.values() for text in of]
    )
    return CaptionIds.of_lengths([len(line) for line in lines])


def sample_prompts(survey: Survey) -> tuple[str, ...]:
    """Captions to draw while the recipe trains, of each language in turn."""
    by_language = [[text for text in texts if len(text) <= LONGEST_PROMPT] for texts in survey.texts.values()]
    each = -(-PROMPTS // len(by_language))
    chosen = [texts[int(at)] for texts in by_language if texts for at in np.linspace(0, len(texts) - 1, each)]
    return tuple(dict.fromkeys(" ".join(text.split()) for text in chosen))[:PROMPTS]


def planned_hours(plan: RecipePlan, machine: Machine) -> dict[str, float]:
    """Hours of tokenization and of each stage, without the starts of jobs."""
    whole, encoding = hours_of(plan, machine), 0.0
    for pictures in tokenization_work(plan.recipe, plan.stages):
        flop = pictures.count * pictures.flop
        days = plan.device.days(flop)
        encoding += flop / machine.cpu_flop_per_s / 3600 if days is None else 24 * days / machine.gpus
    stages = {f"stage {stage.number}": whole * stage.work.flop / plan.flop for stage in plan.stages}
    return {"tokenization": encoding} | stages


def hours_table(hours: Mapping[str, float], machine: Machine) -> Table:
    basis = (
        "at the plan's MFU, assumed" if machine.gpus else "from the demo's FLOP/s a core, another machine may differ"
    )
    table = Table("planned time", f"on {machine}", caption=f"{basis}; without the starts of jobs, half a minute each")
    for name, each in hours.items():
        table.add_row(name, _duration(each))
    table.add_section()
    table.add_row("in all", _duration(sum(hours.values())))
    return table


def _write_sheet(survey: Survey, paths: RunPaths) -> float | None:
    """Writes pictures of the corpus and, if the VQ-GAN is there, what its codes keep. Returns their PSNR, dB."""
    places = np.linspace(0, len(survey.looks) - 1, min(SHEET_PICTURES, len(survey.looks)))
    looks = [survey.looks[int(place)] for place in places]
    pixels, kept, psnr_db = [look.pixels for look in looks], [], None
    if paths.vqgan.exists():
        vqgan = ImageTokenizer(paths.vqgan)
        kept = list(vqgan.decode_all(vqgan.encode(np.stack(pixels))))
        psnr_db = quality_of(vqgan, pixels).psnr_db
        say(f"new_recipe: the VQ-GAN keeps these pictures with a PSNR of {psnr_db:.1f} dB")
        if psnr_db < POOR_PSNR_DB and not paths.recipe.vqgan_folder:
            say(
                "new_recipe: that is poor: the project's own VQ-GAN knows flat drawings. Pictures will look like the "
                "lower ones on the sheet, at best. Name another with --vqgan, or train one: docs/your_corpus.md"
            )
    cells = []
    for number, look in enumerate(looks):
        captions = survey.captions_of(look)
        cells.append(
            [(captions[number % len(captions)], look.pixels), *((("from codes", kept[number]),) if kept else ())]
        )
    columns = [[cell for part in cells[start::SHEET_COLUMNS] for cell in part] for start in range(SHEET_COLUMNS)]
    write_png(paths.run / SHEET_FILE, picture_sheet([column for column in columns if column], survey.source.url))
    say(f"new_recipe: a sheet of pictures is in {paths.run / SHEET_FILE}")
    return psnr_db


def _head(survey: Survey, machine: Machine, hours: Mapping[str, float], output: Path) -> str:
    """The recipe's docstring: what it is for, and the commands that come next."""
    file, about = shlex.quote(str(output)), "" if survey.rows_counted else "about "
    prompt = shlex.quote(next(iter(survey.captions_of(survey.looks[0]))).split("\n")[0][:60])
    steps = (
        ("tokenize", "", "pictures and captions become codes and ids, once"),
        *((("train_lm", "", "a small language model of the captions"),) if not machine.gpus else ()),
        ("train_stage", " --stage all", f"about {_duration(sum(hours.values()) - hours['tokenization'])}"),
        ("evaluate", "", "scores and a sheet of pictures on rows that no stage trained on"),
        ("generate", f" --prompt {prompt}", "a picture of your own words"),
    )
    commands = "\n".join(f"    # {what}\n    python -m jobs.{job} --recipe {file}{more}" for job, more, what in steps)
    return (
        f"A recipe for {survey.source.url}, written by jobs/new_recipe.py on {time.strftime('%Y-%m-%d')}.\n\n"
        f"It is for {about}{survey.rows:,} rows, and for {machine}. What comes next:\n\n{commands}\n\n"
        "Change it freely. Settings that are not here have their usual values, which the classes of pipeline/config\n"
        "state. A value can also be overridden for one command, as with --set stages.0.steps=100, and --dry-run shows\n"
        "the plan of train_stage.\n"
    )


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 2 else f"{max(1, round(60 * hours))} minutes"


def _reasons(machine: Machine, held_out: HeldOut, ids: CaptionIds, wishes: Wishes) -> dict[str, str]:
    """The comments in the recipe, by setting."""
    held = f"held out: {held_out.share:.1%} of the rows, by the ends of their names, and never trained on"
    epochs = GPU_EPOCHS if machine.gpus else CPU_EPOCHS
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
        "stages.0.steps": f"each row up to {epochs} times, and at most {wishes.hours:g} hours in all",
        "stages.0.seq_len": "tokens of a row, in which several samples lie",
        "stages.0.micro_batch_size": "rows that a rank takes at once: lower it if memory is short",
        "stages.0.validate_every_steps": "the loss on held-out rows",
        "stages.0.sample_prompts": "pictures of these are drawn while it trains, at the same seeds",
    }
