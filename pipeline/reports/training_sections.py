"""Sections of the report on the training so far: progress, losses, samples, and where the time goes."""

import html
from collections.abc import Mapping, Sequence
from statistics import median
from textwrap import wrap

import pandas as pd
from matplotlib.figure import Figure

from pipeline.budget.forecast import forecast
from pipeline.budget.spending import burn_rate, spending
from pipeline.config.recipe import Recipe
from pipeline.ledger.table import Ledger
from pipeline.pages.figures import png_of
from pipeline.pages.html import image_of, table_of
from pipeline.pages.sheets import spread
from pipeline.runs.paths import RunPaths
from pipeline.step_figures import StepFigures, read_step_figures

RECENT_STEPS = 50
PLOT_INCHES, TITLE_LETTERS = 4.7, 60
"""Width of a plot, of which two stand side by side on a screen, and of a line of its title."""
SHOWN_SAMPLES = 6
"""Sample pictures that are shown of a stage."""
PARTS = (
    *("forward passes", "update", "waits for data", "backward passes and the rest"),
    *("validation and samples", "checkpoints"),
)

Figures = Mapping[int, Sequence[StepFigures]]
"""The figures of each stage that has some, by its number; of a step that was repeated, the last ones."""


def stage_figures(recipe: Recipe, paths: RunPaths) -> dict[int, list[StepFigures]]:
    """Reads the figures of all stages."""
    found = {}
    for number in range(1, len(recipe.stages) + 1):
        by_step = {each.step: each for each in read_step_figures(paths.stage(number))}
        if by_step:
            found[number] = [by_step[step] for step in sorted(by_step)]
    return found


def progress_parts(recipe: Recipe, figures: Figures, ledger: Ledger) -> list[str]:
    """A table with a line for each stage, and the forecast."""
    rows = []
    for number, stage in enumerate(recipe.stages, start=1):
        done = figures.get(number, ())
        recent = done[-RECENT_STEPS:]
        seconds = median(each.step_s for each in recent) if recent else 0.0
        rate = sum(each.tokens for each in recent) / max(1e-9, sum(each.step_s for each in recent))
        rows.append(
            {
                "stage": f"{number}: {stage.purpose}",
                "steps": f"{done[-1].step if done else 0:,} of {stage.steps:,}",
                "samples": f"{sum(each.samples for each in done):,}",
                "s a step": f"{seconds:.2f}" if recent else "",
                "tokens/s": f"{rate:,.0f}" if recent else "",
                "skipped steps": f"{done[-1].skipped_steps}" if done else "",
            }
        )
    parts = ["<h2>Progress</h2>", table_of(pd.DataFrame(rows))]
    if figures and len(ledger.table):
        expected = forecast(recipe, ledger.table, burn_rate(ledger.table, spending(ledger.table, recipe.heartbeat_s)))
        if expected:
            left = f", about {expected.left_s / 3600:.1f} hours left" if expected.left_s else ""
            parts.append(f"<p>{expected.done_share:.0%} of the training's FLOP are done{left}.</p>")
    return parts


def loss_parts(recipe: Recipe, figures: Figures) -> list[str]:
    """The losses of all stages, and those on held-out rows where there are some."""
    if not figures:
        return []
    parts = ["<h2>Loss by task</h2>"]
    for number, of_stage in figures.items():
        parts.append(image_of(loss_curves(recipe, number, of_stage), f"loss of each task over stage {number}"))
    held_out = {number: [each for each in of if each.validation] for number, of in figures.items()}
    if any(held_out.values()):
        text = "On rows that the stage does not train on: bits of a code given the caption, or of a caption's byte"
        parts.append(f"<h2>Held-out loss</h2><p>{text} given the picture.</p>")
        for number, of_stage in held_out.items():
            if of_stage:
                parts.append(image_of(held_out_curves(number, of_stage), f"held-out losses over stage {number}"))
    return parts


def loss_curves(recipe: Recipe, number: int, figures: Sequence[StepFigures]) -> bytes:
    """A PNG with the loss of each task over the steps of a stage."""
    figure = Figure(figsize=(PLOT_INCHES, 3.4))
    axis = figure.subplots()
    table = pd.DataFrame.from_dict({each.step: each.losses for each in figures}, orient="index").sort_index()
    for task in map(str, table.columns):
        axis.plot(table.index, table[task], label=task.replace("_", " "), linewidth=1)
    title = "\n".join(wrap(f"Stage {number}: {recipe.stages[number - 1].purpose}", TITLE_LETTERS))
    axis.set(title=title, xlabel="step", ylabel="cross-entropy, nats a label", ylim=(0, None))
    axis.title.set_fontsize(9)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return png_of(figure)


def held_out_curves(number: int, figures: Sequence[StepFigures]) -> bytes:
    """A PNG with the held-out losses of a stage, one line for each task and language."""
    figure = Figure(figsize=(PLOT_INCHES, 3.4))
    axis = figure.subplots()
    table = pd.DataFrame.from_dict({each.step: each.validation for each in figures}, orient="index").sort_index()
    for name in map(str, table.columns):
        axis.plot(table.index, table[name], "o-", label=name.replace("_", " "), linewidth=1, markersize=3)
    axis.set(title=f"Stage {number}", xlabel="step", ylabel="bits", ylim=(0, None))
    axis.legend(fontsize=7)
    figure.tight_layout()
    return png_of(figure)


def sample_parts(recipe: Recipe, paths: RunPaths) -> list[str]:
    """Pictures of the sample prompts as they came over the steps, from the same seeds."""
    parts = []
    for number, stage in enumerate(recipe.stages, start=1):
        drawn = sorted(paths.stage(number).glob("samples/*.png"))
        if drawn:
            prompts = "; ".join(map(html.escape, stage.sample_prompts))
            of_prompts = f", for the prompts {prompts}" if prompts else ""
            parts.append(f"<p>Stage {number}, the likeliest code each time{of_prompts}.</p>")
        for path in spread(drawn, SHOWN_SAMPLES):
            step = int(path.stem.rpartition("-")[2])
            parts.append(f"<p class=note>step {step:,}</p>")
            parts.append(image_of(path.read_bytes(), f"samples of stage {number} after step {step}"))
    return ["<h2>Samples over the steps</h2>", *parts] if parts else []


def time_parts(figures: Figures) -> list[str]:
    """The throughput over the steps, and where the time of rank 0 goes."""
    if not figures:
        return []
    rows = []
    for number, of_stage in figures.items():
        seconds = _seconds_by_part(of_stage)
        total = max(1e-9, sum(seconds))
        shares = {name: f"{part / total:.1%}" for name, part in zip(PARTS, seconds, strict=True)}
        rows.append({"stage": str(number), "hours": f"{total / 3600:.2f}", **shares})
    return [
        "<h2>Where the time goes</h2><p>Shares of the time of steps, on rank 0; the ledger has the rest.</p>",
        table_of(pd.DataFrame(rows)),
        *(
            image_of(throughput_curve(number, of_stage), f"tokens a second over stage {number}")
            for number, of_stage in figures.items()
        ),
    ]


def throughput_curve(number: int, figures: Sequence[StepFigures]) -> bytes:
    figure = Figure(figsize=(PLOT_INCHES, 2.6))
    axis = figure.subplots()
    rates = [each.tokens / each.step_s if each.step_s else 0.0 for each in figures]
    axis.plot([each.step for each in figures], rates, linewidth=1)
    axis.set(title=f"Stage {number}", xlabel="step", ylabel="tokens/s", ylim=(0, None))
    figure.tight_layout()
    return png_of(figure)


def _seconds_by_part(figures: Sequence[StepFigures]) -> list[float]:
    forward = sum(sum(each.forward_s_by_kind.values()) for each in figures)
    update, waits = sum(each.update_s for each in figures), sum(each.data_wait_s for each in figures)
    rest = max(0.0, sum(each.step_s for each in figures) - forward - update - waits)
    between = sum(each.between_steps_s for each in figures)
    return [forward, update, waits, rest, between, sum(each.checkpoint.seconds for each in figures if each.checkpoint)]
