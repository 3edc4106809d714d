"""Checkpoints are written, and kept, for a validation beside the training."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.config.stage import StageConfig
from pipeline.step_figures import VALIDATION_FILE, Validation
from pipeline.training.due import awaiting_validation, is_saved

STAGE = StageConfig("test", steps=95, save_every_steps=30, validate_every_steps=20, sample_every_steps=50)


def run_of(output: Path, **settings: Any) -> Any:
    inputs = {"stage": STAGE, "held_out": ("rows",), "samples": "prompts", "async_validation": True}
    return SimpleNamespace(output=output, **inputs | settings)


def test_a_checkpoint_is_written_whenever_one_is_validated_or_drawn_from(tmp_path: Path) -> None:
    def saved(**settings: Any) -> list[int]:
        return [done for done in range(1, 96) if is_saved(run_of(tmp_path, **settings), done)]

    assert saved(async_validation=False) == [30, 60, 90]
    assert saved() == [20, 30, 40, 50, 60, 80, 90, 95]
    assert saved(held_out=()) == [30, 50, 60, 90], "samples alone"
    assert saved(samples=None, stage=replace(STAGE, validate_every_steps=0)) == [30, 60, 90, 95], "the last step alone"


def test_the_newest_three_that_are_not_validated_are_kept(tmp_path: Path) -> None:
    names = {step: f"step-{step:08d}-0123abcd" for step in (95, 80, 60, 50, 40, 30, 20)}
    lines = [json.dumps(Validation(step, names[step], {}, 1.0).to_json()) + "\n" for step in (20, 80)]
    (tmp_path / VALIDATION_FILE).write_text("".join(lines))
    assert awaiting_validation(run_of(tmp_path), names.values()) == [names[50], names[60], names[95]]
