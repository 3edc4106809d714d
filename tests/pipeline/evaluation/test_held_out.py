"""A run's text is measured on captions that none of its stages has seen, however its recipe holds them out."""

from pathlib import Path

import pandas as pd

from jobs.common.recipes import load_recipe
from pipeline.evaluation.held_out import held_out_captions
from pipeline.runs.paths import run_paths
from tests.support.past_run import RECIPE, copy_past_inputs


def test_captions_of_rows_that_held_out_keeps_from_training_are_found(tmp_path: Path) -> None:
    """Its stages select all rows with `where`, or all of a kind, and `held_out` leaves out every eighth."""
    run = copy_past_inputs(tmp_path)
    recipe = load_recipe(str(RECIPE), (f"language_expert_folder={run / 'lm'}",))
    texts = held_out_captions(recipe, run_paths(str(tmp_path), recipe), 100)
    table = pd.concat(pd.read_parquet(path) for path in (run / "tokens").rglob("*.parquet"))
    held_out = table[table["score"] % 8 == 7]
    assert len(held_out) and texts
    assert {tuple(ids) for ids in texts} <= {tuple(each["ids"]) for row in held_out["captions"] for each in row}
