"""The predicted part of a dry run: MFU and GPU-days on clusters of several sizes, what binds, and the best settings."""

from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.cluster_file import ClusterFile
from pipeline.config.machine_types import MACHINE_TYPES
from pipeline.config.recipe import Recipe
from pipeline.planning.assumed_rates import Range
from pipeline.planning.best_settings import Best, best_settings
from pipeline.planning.machines import machine_for
from pipeline.planning.prediction import Prediction, Predictor

GPU_COUNTS = (8, 16, 64, 256)
"""Numbers of GPUs that are predicted, besides the recipe's own."""
OTHERS = ("A100-40GB", "A100-80GB", "H100")
"""GPUs that are predicted, besides the planned one."""


def print_prediction(
    console: Console, recipe: Recipe, numbers: list[int], gpu: str, file: ClusterFile | None, tokenization_days: float
) -> dict[str, Any]:
    """Prints the predictions and returns them as plain values; empty if the machines with the GPU are not known.

    Args:
        console: where to print.
        recipe: a valid recipe that trains on GPUs.
        numbers: stage numbers, from 1.
        gpu: the planned GPU's name.
        file: cluster file whose machines are taken; None for the first known ones with each GPU.
        tokenization_days: A100 days that tokenization is planned at.
    """
    machine = machine_for(gpu, file)
    if machine is None:
        known = ", ".join(kind.name for kind in MACHINE_TYPES)
        console.print(f"note: nothing is predicted on {gpu}: its machines are not among {known}", markup=False)
        return {}
    ranks = recipe.scaling.num_workers
    predictor = Predictor(recipe, numbers)
    own = predictor.predict(machine, ranks)
    best = best_settings(predictor, machine, ranks)
    others = [
        predictor.predict(other, count)
        for name in OTHERS
        if (other := machine_for(name, file)) is not None
        for count in GPU_COUNTS
    ]
    console.print(_table(own, others, tokenization_days))
    console.print(_advice(own, best), markup=False)
    return {
        "predicted_mfu": _ends(own.mfu),
        "predicted_a100_gpu_days": _ends(_plus(own.a100_gpu_days, tokenization_days)),
        "binds": own.binds,
        "predictions": [_object(each) for each in (own, *others)],
        "best": _best_object(best),
    }


def _table(own: Prediction, others: list[Prediction], tokenization_days: float) -> Table:
    caption = (
        "Computed from counts and assumed rates (pipeline/planning/assumed_rates.py), not measured. The range is that "
        f"of the assumptions. A100 days of the planned cluster include {tokenization_days:.1f} of tokenization."
    )
    columns = ("GPUs", "machine", "MFU: low, mid, high", "GPU-days", "A100 days", "most time goes to")
    table = Table(*columns, title="Predicted training", caption=caption)
    for number, each in enumerate((own, *others)):
        mark = ("[bold]", "[/]") if number == 0 else ("", "")
        mfu, days = each.mfu, each.gpu_days
        a100 = _plus(each.a100_gpu_days, tokenization_days if number == 0 else 0.0)
        table.add_row(
            f"{mark[0]}{each.ranks} {each.machine.gpu}{mark[1]}",
            each.machine.name,
            f"{mark[0]}{mfu.low:.2f}, {mfu.mid:.2f}, {mfu.high:.2f}{mark[1]}",
            f"{days.high:,.0f} to {days.low:,.0f}",
            f"{a100.high:,.0f} to {a100.low:,.0f}",
            each.binds if each.fits else f"does not fit into {each.memory_bytes / 1e9:.0f} GB",
        )
        if number == 0:
            table.add_section()
    return table


def _advice(own: Prediction, best: Best | None) -> str:
    if best is None:
        return "Of the settings that were tried, none leaves enough memory free on these GPUs."
    lines = [f"Fastest of the settings that were tried: {_settings(best)}; MFU {best.prediction.mfu.mid:.2f}."]
    if best.prediction.mfu.mid <= own.mfu.mid:
        lines = [f"No other setting that was tried is faster; {_settings(best)} gives {best.prediction.mfu.mid:.2f}."]
    if larger := best.larger_batch:
        lines.append(
            f"With {larger.settings.batch_factor} times the batch: {_settings(larger)}; MFU "
            f"{larger.prediction.mfu.mid:.2f}. The learning rate would have to follow."
        )
    return " ".join(lines)


def _settings(best: Best) -> str:
    settings = best.settings
    parts = [f"zero.zero_stage={settings.zero_stage}"]
    if settings.zero_stage == 3:
        parts.append(f"zero.secondary_partition_size={settings.secondary_partition_size}")
    parts += [
        f"micro_batch_size={settings.micro_batch_size}",
        f"checkpoint_every_layers={settings.checkpoint_every_layers}",
    ]
    return ", ".join(parts)


def _best_object(best: Best | None) -> dict[str, Any] | None:
    if best is None:
        return None
    settings = {name: getattr(best.settings, name) for name in best.settings.__dataclass_fields__}
    found = {"settings": settings, "mfu": _ends(best.prediction.mfu)}
    return found | {"larger_batch": _best_object(best.larger_batch)}


def _object(each: Prediction) -> dict[str, Any]:
    return {
        "gpu": each.machine.gpu,
        "machine": each.machine.name,
        "gpus": each.ranks,
        "mfu": _ends(each.mfu),
        "gpu_days": _ends(each.gpu_days),
        "a100_gpu_days": _ends(each.a100_gpu_days),
        "binds": each.binds,
        "fits": each.fits,
        "stages": [
            {
                "stage": stage.number,
                "step_s": _ends(Range(stage.low.seconds, stage.mid.seconds, stage.high.seconds)),
                "by_cause_s": stage.mid.by_cause,
                "peak_bytes": stage.peak_bytes,
            }
            for stage in each.stages
        ],
    }


def _ends(values: Range) -> dict[str, float]:
    """The range with its least value as `low`."""
    low, mid, high = sorted((values.low, values.mid, values.high))
    return {"low": low, "mid": mid, "high": high}


def _plus(values: Range, more: float) -> Range:
    return Range(values.low + more, values.mid + more, values.high + more)
