"""Ranks whose weights or whose arithmetic differ are found."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.training.stage_run import StageRun
from tests.support.faults import add_otherwise_the_second_time, flip_a_bit
from tests.support.ranks import STAGE, on_ranks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name, zero, said",
    [
        (
            "mars.model.layers.0.text_expert.q_proj.weight",
            {"frozen_whole": True},
            "language expert's weights changed on rank 1",
        ),
        ("mars.model.layers.0.text_expert.q_proj.weight", {}, "language expert's weights changed on rank 1"),
        (
            "mars.model.layers.0.visual_expert.q_proj.weight",
            {"zero_stage": 2},
            "whole weights differ between the ranks",
        ),
        (
            "mars.model.layers.0.visual_expert.q_proj.weight",
            {"persistence_threshold": 10_000},
            "whole weights differ between the ranks",
        ),
    ],
)
def test_a_bit_that_flips_on_one_rank_ends_the_run(run: StageRun, name: str, zero: dict[str, Any], said: str) -> None:
    stage = replace(STAGE, compare_every_steps=1, sample_every_steps=0)
    run = replace(run, zero=replace(run.zero, **zero), stage=stage, samples=None)
    figures = on_ranks(2, run, before_step=partial(flip_a_bit, name))
    told = Path(f"{run.output}.told").read_text()
    assert said in told and len(figures) == 1, told


def test_a_rank_that_computes_otherwise_the_second_time_is_found(run: StageRun) -> None:
    on_ranks(2, replace(run, verify_only=True), before_step=add_otherwise_the_second_time)
    told = Path(f"{run.output}.told").read_text()
    assert "CorruptionError: a step run twice differs" in told and "the losses of rank 1 differ" in told


@pytest.mark.parametrize("how", [{}, {"zero_stage": 2, "dtype": "bfloat16"}], ids=["zero 3", "zero 2, bfloat16"])
def test_a_step_run_twice_is_the_same_and_leaves_nothing_behind(run: StageRun, how: dict[str, Any]) -> None:
    run = replace(run, zero=replace(run.zero, **how), samples=None)
    on_ranks(2, run, stop_after=4)
    files = sorted(path.name for path in Path(run.checkpoints).iterdir())
    on_ranks(2, replace(run, verify_only=True))
    assert "run twice is the same, bit for bit" in Path(f"{run.output}.told").read_text()
    assert sorted(path.name for path in Path(run.checkpoints).iterdir()) == files
