"""The dry run of a recipe: its plan as tables for a person, and as one JSON object. It starts nothing."""

import dataclasses
from dataclasses import asdict
from typing import Any

from rich.table import Table

from cluster.cluster_file import read_cluster_file
from pipeline.config.gpus import A100, ASSUMED_ENCODER_MFU
from pipeline.config.recipe import Recipe
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import UsageError
from pipeline.planning.recipe_plan import PlannedStage, RecipePlan, plan_recipe
from pipeline.planning.tokenization_work import tokenization_work
from pipeline.planning.work import KindWork
from pipeline.reports.asked_nodes import print_nodes, training_demand
from pipeline.reports.generation_note import generation_note
from pipeline.reports.prediction import print_prediction
from pipeline.runtime.terminal import tables_to

MEMORY_NOTES = {
    "start": "the whole model, before it is partitioned",
    "runtime": "assumed: CUDA, NCCL, gaps",
    "frozen_weights": "language expert",
    "trained_weights": "visual expert, embedding and head",
    "gradients": "float32, accumulated over the micro-steps",
    "master_and_moments": "float32 weights, AdamW's two moments",
    "activations": "for the backward pass, as the stage recomputes",
    "layer": "one layer's backward pass; only the larger of layer and head counts",
    "gathered": "parameters that ZeRO-3 holds whole at once",
    "reduce_buckets": "gradients on their way to their rank",
    "head": "logits of one chunk, the visual head's gradient; see layer",
    "update": "gradients once more, while the five above are free",
}


def dry_run(
    recipe: Recipe, unchanged: Recipe, stage: str, gpu: str, mfu: float, as_json: bool, cluster: str = ""
) -> dict[str, Any]:
    """Shows the plan of a recipe and returns it.

    Args:
        recipe: recipe with its overrides.
        unchanged: the same recipe without overrides, to show what changed.
        stage: stage number, or `all` or empty for all stages.
        gpu, mfu: see `plan_recipe`.
        as_json: print the tables to standard error, so that standard output is the object alone.
        cluster: file of the cluster that is asked for nodes; empty for none.

    Raises:
        UsageError: the recipe is impossible, or the cluster can never provide the nodes.
    """
    file = read_cluster_file(cluster) if cluster else None
    plan = plan_recipe(recipe, _numbers(recipe, stage), gpu, mfu)
    values, before = flatten(recipe), flatten(unchanged)
    console = tables_to(as_json)
    for table in (recipe_table(values, before), model_table(plan), *map(batch_table, plan.stages)):
        console.print(table)
    for table in (memory_table(plan), work_table(plan)):
        console.print(table)
    predicted = {}
    if plan.device.peak_flop_per_s:
        console.print(generation_note(plan), markup=False)
        days = _tokenization_days(recipe, plan) if len(plan.stages) == len(recipe.stages) else 0.0
        numbers = [planned.number for planned in plan.stages]
        predicted = print_prediction(console, recipe, numbers, plan.device.name, file, days)
    asked = {"cluster": print_nodes(console, file, [training_demand(recipe, plan.device.name)])} if file else {}
    return as_object(plan, values, before) | predicted | asked


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Returns every value of a recipe by its `--set` key."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        parts = [(field.name, getattr(node, field.name)) for field in dataclasses.fields(node)]
    elif isinstance(node, dict) and node:
        parts = list(node.items())
    elif isinstance(node, tuple) and any(dataclasses.is_dataclass(part) for part in node):
        parts = [(str(number), part) for number, part in enumerate(node)]
    else:
        return {path: node}
    return {
        key: value for name, part in parts for key, value in flatten(part, f"{path}.{name}" if path else name).items()
    }


def recipe_table(values: dict[str, Any], before: dict[str, Any]) -> Table:
    """Returns the resolved recipe, with overridden values marked."""
    table = Table("key", "value", "changed from", title="Recipe")
    for key, value in values.items():
        changed = key not in before or before[key] != value
        mark = ("[bold yellow]* ", "[/]") if changed else ("", "")
        table.add_row(f"{mark[0]}{key}{mark[1]}", _plain(value), _plain(before.get(key, "")) if changed else "")
    return table


def model_table(plan: RecipePlan) -> Table:
    config, counts = plan.config, plan.counts
    table = Table("", "", title="Model", show_header=False)
    rows = {
        "layers, hidden size, FFN": f"{config.num_hidden_layers}, {config.hidden_size:,}, {config.intermediate_size:,}",
        "heads, key-value heads": f"{config.num_attention_heads}, {config.num_key_value_heads}",
        "ids": f"{config.vocab_size:,} = {config.text_vocab_size:,} text + {config.vocabulary.num_visual:,} visual",
        "parameters": f"{counts.total:,}",
        "of them trained": f"{counts.trainable:,}: the visual expert, embedding and head",
        "active at a picture's position": f"{counts.active:,}",
        "codes of a picture": f"{plan.lengths.num_codes:,}, high resolution {plan.lengths.num_high_codes:,}",
        "caption ids": f"{plan.lengths.mean_caption_ids} in the recipe's mean, {plan.lengths.max_caption_ids} at most",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def batch_table(planned: PlannedStage) -> Table:
    """Returns the batch arithmetic of one stage with every factor."""
    stage, work = planned.stage, planned.work
    world_size = work.kinds[0].rows // work.kinds[0].rows_per_rank
    kinds = [kind.kind.name.lower() for kind in work.kinds]
    title = f"Stage {planned.number}, a step: {stage.purpose}"
    caption = (
        f"grad_accum_steps {work.grad_accum_steps}: the most micro-steps of a kind; one holds rows of every kind left. "
        f"global_batch_size {work.global_batch_size:,} samples"
    )
    table = Table("expected", *kinds, title=title, caption=caption)

    def add(name: str, value: Any) -> None:
        table.add_row(name, *(value(kind) for kind in work.kinds))

    add("samples", lambda kind: f"{kind.samples:,.1f}")
    add("tokens a sample, text + visual", lambda kind: f"{kind.text_tokens:,.1f} + {kind.visual_tokens:,.1f}")
    add("tokens", lambda kind: f"{kind.samples * kind.tokens:,.0f}")
    add(f"rows of at most {stage.seq_len:,} (seq_len)", lambda kind: f"{kind.rows:,}")
    add(f"rows a rank, of {world_size} ranks", lambda kind: f"{kind.rows_per_rank:,}")
    add(f"micro-steps of {stage.micro_batch_size} rows (micro_batch_size)", lambda kind: f"{kind.micro_steps:,}")
    add("padded row, text + visual", lambda kind: f"{kind.row_text_length:,} + {kind.row_visual_length:,}")
    add("uneven or empty rows", lambda kind: f"{kind.padding_fraction:.1%}")
    add("FLOP a sample", lambda kind: _short(kind.flop.total))
    return table


def memory_table(plan: RecipePlan) -> Table:
    zero = plan.recipe.zero
    whole = ", language expert whole" if zero.frozen_whole and zero.zero_stage == 3 else ""
    where = "GPU" if plan.device.memory_bytes else "process"
    title = f"GB a {where}, of {plan.recipe.scaling.num_workers}: {zero.dtype}, ZeRO-{zero.zero_stage}{whole}"
    table = Table("component", *(f"stage {stage.number}" for stage in plan.stages), "what", title=title)
    columns = [stage.memory.by_component() for stage in plan.stages]
    for name, note in MEMORY_NOTES.items():
        table.add_row(name, *(f"{column[name] / 1e9:.2f}" for column in columns), note)
        if name == "runtime":
            table.add_section()
    table.add_section()
    recomputed = [str(stage.stage.checkpoint_every_layers or "none") for stage in plan.stages]
    table.add_row("every n-th layer recomputed", *recomputed, "checkpoint_every_layers")
    has = f", of {plan.device.memory_bytes / 1e9:.0f} ({plan.device.name})" if plan.device.memory_bytes else ""
    peaks = [f"[bold]{stage.memory.peak / 1e9:.1f}[/]" for stage in plan.stages]
    table.add_row(f"[bold]at the fullest moment{has}[/]", *peaks)
    return table


def work_table(plan: RecipePlan) -> Table:
    """Returns samples, tokens, FLOP and GPU-days, with published models for comparison."""
    device, ranks = plan.device, plan.recipe.scaling.num_workers
    caption = "FLOP without recomputation" + (
        f"; days at an MFU of {device.mfu:g}, assumed (--mfu); the predicted ones are below"
        if device.peak_flop_per_s
        else ""
    )
    table = Table("planned", "samples", "tokens", "FLOP", "recomputed", title="Work", caption=caption)
    on_gpus = device.peak_flop_per_s is not None
    if on_gpus:
        for column in (f"{device.name} days", "budget", f"days of {ranks} GPUs"):
            table.add_column(column)

    def days(gpu_days: float | None, budget: float) -> list[str]:
        if gpu_days is None:
            return []
        return [f"{gpu_days:,.2f}", f"{budget:,g}" if budget else "none", f"{gpu_days / ranks:,.2f}"]

    for stage in plan.stages:
        work = stage.work
        cells = [f"{work.samples:,}", _short(work.tokens), _short(work.flop)]
        again = f"+{work.recomputed_flop / work.flop:.0%}"
        table.add_row(f"stage {stage.number}", *cells, again, *days(stage.gpu_days, stage.budget_gpu_days))
    if on_gpus:
        table.add_section()
        budget = sum(stage.budget_gpu_days for stage in plan.stages)
        table.add_row("[bold]in all[/]", "", "", _short(plan.flop), "", *days(device.days(plan.flop), budget))
        if plan.recipe.plan.gpu_days_beside:
            table.add_row("the same on A100", "", "", "", "", f"{a100_days(plan):,.2f}")
        for name, published in plan.recipe.plan.gpu_days_beside.items():
            table.add_row(f"{name} (published)", "", "", "", "", f"{published:,g} of A100")
    return table


def a100_days(plan: RecipePlan) -> float:
    """Returns the plan's GPU-days on A100s, at the same assumed MFU."""
    return plan.flop / (A100.peak_flop_per_s * plan.device.mfu * SECONDS_PER_DAY)


def as_object(plan: RecipePlan, values: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Returns the plan as plain values; names include the units."""
    device = plan.device
    on_gpus = device.peak_flop_per_s is not None
    return {
        "recipe": plan.recipe.name,
        "values": values,
        "changed": {key: before.get(key) for key, value in values.items() if key not in before or before[key] != value},
        "device": device.name,
        "assumed_mfu": device.mfu if on_gpus else None,
        "memory_bytes": device.memory_bytes,
        "parameters": asdict(plan.counts),
        "stages": [_stage_object(stage) for stage in plan.stages],
        "flop": plan.flop,
        "gpu_days": device.days(plan.flop),
        "a100_days": a100_days(plan) if on_gpus else None,
        "gpu_days_beside": plan.recipe.plan.gpu_days_beside,
    }


def _tokenization_days(recipe: Recipe, plan: RecipePlan) -> float:
    """A100 days that tokenization is planned at, at the assumed MFU of the encoder."""
    flop = sum(each.count * each.flop for each in tokenization_work(recipe, plan.stages))
    return flop / (A100.peak_flop_per_s * ASSUMED_ENCODER_MFU * SECONDS_PER_DAY)


def _stage_object(planned: PlannedStage) -> dict[str, Any]:
    work, memory = planned.work, planned.memory
    return {
        "stage": planned.number,
        "samples": work.samples,
        "tokens": work.tokens,
        "flop": work.flop,
        "recomputed_flop": work.recomputed_flop,
        "gpu_days": planned.gpu_days,
        "budget_gpu_days": planned.budget_gpu_days,
        "grad_accum_steps": work.grad_accum_steps,
        "kinds": {kind.kind.name.lower(): _kind_object(kind) for kind in work.kinds},
        "memory_bytes": memory.by_component() | {"states": memory.states, "peak": memory.peak},
    }


def _kind_object(kind: KindWork) -> dict[str, Any]:
    figures = asdict(kind)
    del figures["kind"]
    return figures | {"flop": kind.flop.total, "tokens": kind.tokens}


def _numbers(recipe: Recipe, text: str) -> list[int]:
    numbers = list(range(1, len(recipe.stages) + 1))
    if not numbers:
        raise UsageError(f"recipe {recipe.name!r} has no stages")
    if text in ("", "all"):
        return numbers
    if not text.isdigit() or int(text) not in numbers:
        raise UsageError(f"--stage {text!r}: recipe {recipe.name!r} has the stages 1 to {len(numbers)}, or say all")
    return [int(text)]


def _short(value: float) -> str:
    """Formats a number with three digits and a unit: 11.2 T for 11.2e12."""
    for exponent, unit in ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**exponent:
            return f"{value / 10**exponent:.3g} {unit}"
    return f"{value:.3g}"


def _plain(value: Any) -> str:
    """Formats a value as `--set` takes it, with brackets escaped because rich would read them as markup."""
    return f"{value}".replace("[", "\\[")
