"""The figures of a step."""

from dataclasses import replace

import pytest

from pipeline.training.stage_run import StageRun
from tests.support.ranks import STAGE, on_ranks


@pytest.mark.slow
def test_a_task_of_weight_zero_has_no_loss_in_the_log(run: StageRun) -> None:
    stage = replace(STAGE, task_weights={"opener": 0.0, "plain_text": 0.1}, steps=1, validate_every_steps=0)
    (figures,) = on_ranks(1, replace(run, stage=stage, samples=None, held_out=()))
    assert "loss/text_to_image" in figures
    assert "loss/opener" not in figures, "it grows in every report, and nothing is learned from it"
