"""Draws a benchmark's prompts in the folder layout of its own scorers."""

from pathlib import Path

from pipeline.evaluation.scorer_layouts import ScorerPrompt, picture_file, write_metadata
from pipeline.ledger.account import Counts
from pipeline.requests.generators import generator_config, make_export, run_generators
from pipeline.requests.request import GenerationRequest, checked_prompts
from pipeline.runs.attempt import ledger_attempt
from pipeline.runtime.terminal import say


def draw_for_scorer(
    request: GenerationRequest, layout: str, prompts: list[ScorerPrompt], num_each: int, output: Path
) -> None:
    """Draws `num_each` pictures of each prompt, in high resolution if the request asks for it."""
    recipe, paths = request.recipe, request.paths
    checked_prompts(request, tuple(prompt.text for prompt in prompts), "")
    make_export(recipe, paths, request.fingerprint)
    rows = [
        {
            "prompt": prompt.text,
            "seed": request.sampling.seed + sample,
            "file": picture_file(layout, prompt, number, sample, num_each),
        }
        for number, prompt in enumerate(prompts)
        for sample in range(num_each)
    ]
    say(f"export_for_scorers: {num_each} pictures of each of {len(prompts)} prompts")
    config = generator_config(request, recipe.evaluation.batch_size, with_vqgan=True)
    write_metadata(layout, output, prompts)
    with ledger_attempt(paths, "export_for_scorers", recipe.scaling.use_gpu) as ledger:
        for row in run_generators(config, rows, recipe, ledger):
            path = output / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(row["high_png" if request.high else "png"])
        ledger.add.remote(Counts(samples=len(rows)))
    say(f"export_for_scorers: {len(rows)} pictures are in {output}, as the scorers of {layout} read them")
