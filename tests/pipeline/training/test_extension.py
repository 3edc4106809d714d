"""A finished stage that goes on with more steps is what it would have been with that many from the start."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints.manifest import finished_checkpoint, newest_complete, rank_file
from pipeline.checkpoints.optimizer_slices import KEYS
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.training.stage_run import StageRun
from tests.support.ranks import STAGE, losses, named, on_ranks

pytestmark = pytest.mark.slow
CONSTANT = replace(STAGE, steps=6, save_every_steps=2, final_learning_rate=STAGE.learning_rate, validate_every_steps=0)


def test_an_extended_stage_is_the_undivided_one_bit_for_bit(run: StageRun) -> None:
    """At a constant rate: only the schedule depends on the number of steps. Samples, moments and weights do not."""
    run = replace(run, stage=CONSTANT, samples=None, held_out=(), recipe_sha256="6 steps")
    whole = named(run, "whole")
    expected = on_ranks(2, whole)
    ended = replace(run, stage=replace(CONSTANT, steps=3), recipe_sha256="3 steps")
    before = on_ranks(2, ended)
    assert newest_complete(run.checkpoints).manifest.finished
    assert not on_ranks(1, replace(run, extends_sha256="3 steps of another seed")), "only steps may have grown"
    assert "was made with other stage settings" in Path(f"{run.output}.told").read_text()
    extended = replace(run, extends_sha256="3 steps")
    begun = on_ranks(2, extended, stop_after=2)  # step 4 is saved, step 5 is lost
    newest = newest_complete(run.checkpoints)
    assert (newest.manifest.step, newest.manifest.finished, newest.manifest.recipe_sha256) == (4, False, "6 steps")
    damaged = Path(run.checkpoints, newest.name, rank_file(0))
    damaged.write_bytes(damaged.read_bytes()[:-5] + b"wrong")
    later = on_ranks(2, extended)
    assert [each["step"] for each in later] == [4, 5, 6], "it goes on from the end at step 3 again"
    assert losses(before) + losses(begun[:1]) + losses(later[1:]) == losses(expected)
    assert [each["samples"] for each in before + later] == [each["samples"] for each in expected]
    ends = [SliceReader(finished_checkpoint(each.checkpoints)) for each in (run, whole)]
    for name in finished_checkpoint(run.checkpoints).manifest.shapes:
        for key in KEYS:
            assert torch.equal(ends[0].whole(name, key), ends[1].whole(name, key)), (name, key)
