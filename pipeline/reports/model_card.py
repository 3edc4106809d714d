"""The model card of an export. Every number in it comes from the run's own files."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.architecture.mars_config import MarsConfig
from pipeline.checkpoints.manifest import Checkpoint, newest_complete
from pipeline.config.stage import StageConfig
from pipeline.ledger.sums import days_unit, sums_by
from pipeline.ledger.table import read_ledger, records_of
from pipeline.planning.flops import count_parameters
from pipeline.runs.paths import RunPaths, language_expert_name
from pipeline.runs.stage_recipe import RECIPE_FILE, read_stage_recipe
from pipeline.step_figures import read_step_figures
from tokenization.files.storage import open_storage
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint, common_fingerprint, list_token_shards
from tokenization.vqgan.vqgan_format import Vqgan

USE = """```python
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
import pipeline.model  # registers the classes; this project must be installed
from pipeline.generation import generate_codes
from pipeline.generation.sampling import Sampling
from tokenization.vqgan.image_tokenizer import ImageTokenizer
from tokenization.text_tokenizer import text_ids

model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.bfloat16).eval()
tokenizer = PreTrainedTokenizerFast.from_pretrained(FOLDER)
codes = generate_codes(model, text_ids(tokenizer, [PROMPT]), {num_codes}, Sampling(seed=0))
pixels = ImageTokenizer(FOLDER + "/{vqgan}").decode(codes)  # uint8 [1, {side}, {side}, 3]
```"""


def model_card(
    paths: RunPaths,
    checkpoint: Checkpoint,
    stage_number: int,
    config: MarsConfig,
    vqgan: Vqgan,
    vqgan_folder: str,
    language_expert: str,
) -> str:
    """Returns the card as Markdown: the model, the recipe, the data's fingerprints, the ledger.

    Args:
        paths: paths of the run.
        checkpoint: the exported checkpoint, of stage `stage_number`.
        config: config of the exported model.
        vqgan: image tokenizer of the run, in `vqgan_folder` of the export.
        language_expert: name of the language expert if the export leaves its weights out; otherwise empty.
    """
    recipe, counts = paths.recipe, count_parameters(config)
    manifest = checkpoint.manifest
    prints = {name: _fingerprint(paths, name) for name in _corpora(recipe.stages[:stage_number])}
    fingerprint = next(iter(prints.values()))
    holds = f"the visual expert alone, to be loaded beside `{language_expert}`" if language_expert else "both experts"
    facts = {
        "holds": holds,
        "parameters": f"{counts.total:,}, of which {counts.trainable:,} were trained",
        "layers, hidden size": f"{config.num_hidden_layers}, {config.hidden_size:,}",
        "vocabulary": f"{config.text_vocab_size:,} text rows and {config.vocabulary.num_visual:,} visual ones, "
        f"{config.vocab_size:,} in all",
        "language expert": f"`{language_expert_name(paths)}`, frozen; sha256 `{manifest.base_sha256}`",
        "checkpoint": f"`{checkpoint.name}` of stage {stage_number}"
        + ("" if manifest.finished else ", which had not finished"),
        "steps, samples of that stage": f"{manifest.step:,}, {manifest.samples:,}",
        "stored in": "bfloat16",
        "image tokenizer": f"{vqgan.format}, {fingerprint.codebook_size:,} codes, factor {fingerprint.factor}, pixels "
        f"from {vqgan.pixel_range[0]:g} to {vqgan.pixel_range[1]:g}; sha256 `{fingerprint.vq_sha256}`",
    }
    side = fingerprint.transform["size_px"]
    parts = [
        f"# {recipe.name}: a MARS text-to-image model",
        "A frozen language expert with a visual expert beside it in every layer (arXiv 2407.07614), trained with MARS "
        "on Ray. The VQ-GAN, the text tokenizer and `recipe.json`, the run's whole recipe, are in this folder.",
        _table(("", ""), list(facts.items())),
        "## Use",
        USE.format(num_codes=fingerprint.num_codes, side=side, vqgan=vqgan_folder),
        "## Recipe",
        _stages(paths, checkpoint, stage_number),
        "## Data",
        _data(paths, prints),
        "## Compute",
        _ledger(paths),
    ]
    return "\n\n".join(parts) + "\n"


def _trained_as(paths: RunPaths, number: int) -> StageConfig:
    """Returns the stage's settings at its training: the recipe may have changed between two stages."""
    folder = paths.stage(number)
    recipe = read_stage_recipe(folder) if (folder / RECIPE_FILE).exists() else paths.recipe
    return recipe.stages[number - 1]


def _stages(paths: RunPaths, checkpoint: Checkpoint, stage_number: int) -> str:
    names = (
        "stage",
        "purpose",
        "steps done",
        "samples",
        "batch",
        "learning rate",
        "tasks",
        "rows",
        "losses at its end",
    )
    rows = []
    for number in range(1, stage_number + 1):
        stage = _trained_as(paths, number)
        done = checkpoint if number == stage_number else newest_complete(paths.checkpoints(number))
        steps = f"{done.manifest.step:,} of {stage.steps:,}" if done else "none"
        samples = f"{done.manifest.samples:,}" if done else "0"
        tasks = ", ".join(f"{name} {share:g}" for name, share in stage.task_shares.items() if share)
        selected = "; ".join(f"{name}: {source.where or 'all'}" for name, source in stage.sources.items())
        losses = _losses(paths.stage(number), done.manifest.step if done else 0)
        rows.append(
            (
                str(number),
                stage.purpose,
                steps,
                samples,
                f"{stage.global_batch_size:,}",
                f"{stage.learning_rate:g}",
                tasks,
                selected,
                losses,
            )
        )
    return _table(names, rows)


def _losses(stage: Path, step: int) -> str:
    """Returns the losses, including held-out ones, of the last line up to `step`."""
    up_to = [figures for figures in read_step_figures(stage) if figures.step <= step]
    if not up_to:
        return "not recorded"
    losses, validation = up_to[-1].losses, up_to[-1].validation
    shown = [f"{task} {loss:.3f}" for task, loss in losses.items()]
    shown += [f"validation/{name} {value:.3f}" for name, value in validation.items()]
    return ", ".join(shown) or "not recorded"


def _corpora(stages: tuple[StageConfig, ...]) -> list[str]:
    return list(dict.fromkeys(name for stage in stages for name in stage.sources))


def _fingerprint(paths: RunPaths, name: str) -> Fingerprint:
    return common_fingerprint(list_token_shards(paths.tokens_of(name)))


def _data(paths: RunPaths, prints: dict[str, Fingerprint]) -> str:
    parts = []
    for name, fingerprint in prints.items():
        manifest = json.loads(open_storage(paths.tokens_of(name)).text(MANIFEST_FILE) or "{}")
        rows = [
            ("rows", f"{manifest['rows_out']:,} of {manifest['rows_in']:,}"),
            ("codes a picture", f"{fingerprint.num_codes}, high resolution {fingerprint.num_codes_hr or 'none'}"),
        ]
        rows += [(key, f"`{json.dumps(value)}`") for key, value in asdict(fingerprint).items()]
        parts.append(f"### {name}\n\n{_table(('', ''), rows)}")
    return "\n\n".join(parts)


def _ledger(paths: RunPaths) -> str:
    """Returns device-days by job and stage, including killed attempts."""
    table = read_ledger(paths.ledger).table
    if not len(table):
        return "The run's folder has no ledger."
    table = table.assign(attempts=1)
    rows = [
        (row["job"], row["stage"], row["gpu_model"], f"{row['attempts']}", _days(row), f"{row['flop']:.3g}")
        for row in records_of(sums_by(table, ["job", "stage", "gpu_model"], ["attempts", "gpu_days", "flop"]))
    ]
    by_model = sums_by(table.sort_values("gpu_model", kind="stable"), ["gpu_model"], ["gpu_days"])
    total = [_days(row) for row in records_of(by_model)]
    names = ("job", "stage", "device", "attempts", "held", "FLOP")
    return f"{_table(names, rows)}\n\nIn all {', '.join(total)}: devices held times seconds over 86,400."


def _days(row: dict[str, Any]) -> str:
    return f"{row['gpu_days']:.4g} {days_unit(row['gpu_model'])}"


def _table(names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
