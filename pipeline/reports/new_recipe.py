"""Writes a recipe for a corpus that a user brings, with a sheet of its pictures, its plan and the expected hours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.own_corpus.choices import CaptionIds, Wishes, choose_recipe, hours_of
from pipeline.own_corpus.held_out import held_out_rows
from pipeline.own_corpus.machine import Machine
from pipeline.own_corpus.recipe_file import recipe_source
from pipeline.own_corpus.run_folder import keep_place
from pipeline.own_corpus.survey import Survey, survey_corpus
from pipeline.pages.sheets import picture_sheet
from pipeline.planning.recipe_plan import RecipePlan
from pipeline.planning.tokenization_work import tokenization_work
from pipeline.reports.dry_run import batch_table, memory_table, model_table, work_table
from pipeline.reports.recipe_text import duration, recipe_head, recipe_reasons
from pipeline.runs.paths import RunPaths, run_paths
from pipeline.runtime.terminal import say, say_error, tables_to
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
FEW_ROWS = 300
FEW_ROWS_TAUGHT = (
    "Expect pictures that look like some of the corpus's, but that follow no words of your own, and held-out losses "
    "that are no better than guessing. 500 drawings taught a little more: docs/your_corpus.md"
)
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
    if survey.usable_rows < FEW_ROWS:
        say_error(f"new_recipe: {survey.usable_rows} rows are few. {FEW_ROWS_TAUGHT}")
    held_out = held_out_rows(survey.names, survey.usable_rows)
    ids = caption_ids(survey, wishes.language_expert or PACKAGED, paths.text)
    say(f"new_recipe: {ids.cut_share:.0%} of the captions have more than {ids.most} ids, and are cut")
    recipe, plan = choose_recipe(survey, machine, ids, held_out, sample_prompts(survey), wishes)
    keep_place(paths.run, place)
    psnr_db = _write_sheet(survey, RunPaths(paths.run, recipe))
    if not machine.gpus:
        _check_tools(RunPaths(paths.run, recipe))
    hours = planned_hours(plan, machine)
    head = recipe_head(survey, machine, hours, output, root)
    text = recipe_source(recipe, head, recipe_reasons(recipe, survey, held_out, ids, wishes.hours))
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
        table.add_row(name, duration(each))
    table.add_section()
    table.add_row("in all", duration(sum(hours.values())))
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
