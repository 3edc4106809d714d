"""Training goes on while a disk is full, and what could not be written is told of."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.checkpoints.manifest import complete_checkpoints, finished_checkpoint, newest_complete
from pipeline.training.skipped_steps import SKIPPED_FILE
from pipeline.training.stage_run import StageRun
from pipeline.training.stop_request import StopRequest
from tests.support.faults import full_disk_at_the_end, full_disk_of_rank_0, full_disk_of_rank_1, poison
from tests.support.ranks import STAGE, Undisturbed, losses, named, on_ranks

pytestmark = pytest.mark.slow


def test_training_goes_on_where_the_first_ranks_disk_is_full(run: StageRun) -> None:
    stage = replace(STAGE, steps=16, save_every_steps=4, sample_every_steps=4, validate_every_steps=0)
    run = replace(run, stage=stage, held_out=())
    whole = on_ranks(2, named(run, "whole"), before_step=partial(poison, range(4, 6), "loss"))
    (run.output / SKIPPED_FILE).parent.mkdir(parents=True)
    (run.output / SKIPPED_FILE).write_text("x" * 3999 + "\n")
    figures = on_ranks(2, run, before_step=full_disk_of_rank_0)
    assert losses(figures) == losses(whole)
    told = Path(f"{run.output}.told").read_text()
    assert "TensorBoard does not take figures any more" in told and f"{SKIPPED_FILE} could not be written" in told
    lines = (run.output / SKIPPED_FILE).read_text().removeprefix("x" * 3999 + "\n").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 5], "they are written once there is room again"
    assert finished_checkpoint(run.checkpoints).manifest.step == 16
    events = EventAccumulator(str(run.output / "tensorboard"))
    events.Reload()
    assert events.Scalars("learning_rate")[-1].step == 16, "it goes on once there is room again"


def test_training_goes_on_where_a_checkpoint_cannot_be_written(run: StageRun, undisturbed: Undisturbed) -> None:
    run = replace(run, stage=replace(STAGE, save_every_steps=2, keep_checkpoints=9), samples=None)
    _, whole = undisturbed()
    figures = on_ranks(2, run, before_step=full_disk_of_rank_1)
    assert losses(figures) == losses(whole)
    said = Path(f"{run.output}.told").read_text()
    assert "step-00000002" in said
    assert "could not be written and does not count: rank-00001.safetensors: " in said and "File too large" in said
    counted = [checkpoint.manifest.step for checkpoint in complete_checkpoints(run.checkpoints, [])]
    assert counted[0] == 6 and 2 not in counted
    assert not [*Path(run.checkpoints).rglob(".*")], "half a file stayed behind"


def test_a_stop_whose_checkpoint_cannot_be_written_says_so_and_the_one_before_is_gone_on_from(run: StageRun) -> None:
    run = replace(run, stage=replace(STAGE, save_every_steps=1, keep_checkpoints=9), samples=None)
    on_ranks(2, run, before_step=full_disk_at_the_end, stop=(5, StopRequest("preempted", "somebody asked")))
    told = Path(f"{run.output}.told").read_text()
    assert "StoppedError: somebody asked; no checkpoint could be written" in told
    assert "PreemptedError" not in told, "its exit code would promise a checkpoint"
    kept = newest_complete(run.checkpoints).manifest.step
    later = on_ranks(2, run)
    assert 1 <= kept < 5 and [each["step"] for each in later] == list(range(kept + 1, STAGE.steps + 1))
