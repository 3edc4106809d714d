"""Steps that nothing can be learned from are skipped by all ranks; many in a row send the weights back or end it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoints.manifest import complete_checkpoints, finished_checkpoint, newest_complete
from pipeline.checkpoints.optimizer_slices import KEYS
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.training.skipped_steps import SKIPPED_FILE
from pipeline.training.stage_run import StageRun
from pipeline.training.stop_request import StopRequest
from tests.support.faults import poison, poison_until_tried
from tests.support.ranks import STAGE, named, on_ranks
from tests.support.trained_weights import trained_state

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "how, zero",
    [
        ("loss", {}),
        ("gradient", {"zero_stage": 2, "dtype": "bfloat16"}),
        pytest.param("gradient", {}, marks=pytest.mark.long),
        pytest.param("gradient", {"dtype": "bfloat16"}, marks=pytest.mark.long),
        pytest.param("loss", {"zero_stage": 2, "dtype": "bfloat16"}, marks=pytest.mark.long),
    ],
)
def test_a_poisoned_batch_on_one_rank_updates_no_rank_and_is_named(
    run: StageRun, how: str, zero: dict[str, Any]
) -> None:
    run = replace(
        run, zero=replace(run.zero, **zero), stage=replace(STAGE, save_every_steps=1, keep_checkpoints=9), samples=None
    )
    figures = on_ranks(2, run, before_step=partial(poison, range(4, 6), how))
    assert [each["skipped_steps"] for each in figures] == [0, 0, 0, 1, 2, 2]
    lines = [json.loads(line) for line in (run.output / SKIPPED_FILE).read_text().splitlines()]
    assert [(line["step"], len(line["sample_ids"])) for line in lines] == [(4, 8), (5, 8)]
    assert all({"loss": "loss is nan", "gradient": "gradient is not finite"}[how] in line["problem"] for line in lines)
    saved = {each.manifest.step: each for each in complete_checkpoints(run.checkpoints, [])}
    assert {step: each.manifest.optimizer_steps for step, each in saved.items()} == {1: 1, 2: 2, 3: 3, 6: 4}
    states = {step: trained_state(checkpoint) for step, checkpoint in saved.items()}
    assert not all(torch.equal(tensor, states[6][name]) for name, tensor in states[3].items())
    assert "step 4 is skipped: its" in Path(f"{run.output}.told").read_text()


def test_skipped_steps_in_a_row_send_the_weights_back_and_then_end_the_run_with_a_checkpoint(run: StageRun) -> None:
    stage = replace(STAGE, steps=12, save_every_steps=3, roll_back_after=2, end_after=4, keep_checkpoints=9)
    run = replace(run, stage=stage, samples=None)
    figures = on_ranks(2, run, before_step=partial(poison, range(5, 20), "loss"))
    assert [each["step"] for each in figures] == [*range(1, 9)]
    told = Path(f"{run.output}.told").read_text()
    assert "resumes from step 3" in told, "the weights of step 4 may be what is wrong"
    assert "NonFiniteError: the last 4 steps up to 8 were skipped" in told and "a checkpoint was written" in told
    lost = [json.loads(line) for line in (run.output / SKIPPED_FILE).read_text().splitlines()]
    assert [(line["step"], "loss is nan" in line["problem"]) for line in lost] == [
        (5, True),
        (4, False),  # was learned from, and undone
        *((step, True) for step in (6, 7, 8)),
    ]
    assert all(len(line["sample_ids"]) == 8 for line in lost)
    newest = newest_complete(run.checkpoints)
    assert (newest.manifest.step, newest.manifest.optimizer_steps) == (8, 3)
    later = on_ranks(2, run)
    assert [each["step"] for each in later] == [9, 10, 11, 12]
    assert later[-1]["skipped_steps"] == 4


def test_what_may_be_spoiled_does_not_push_out_the_checkpoints_before_it(run: StageRun) -> None:
    """With one to keep, the end on bad numbers left only what it had just saved."""
    stage = replace(STAGE, steps=12, save_every_steps=2, roll_back_after=0, end_after=3, keep_checkpoints=1)
    run = replace(run, stage=stage, samples=None)
    on_ranks(2, run, before_step=partial(poison, range(5, 20), "loss"))
    assert [each.manifest.step for each in complete_checkpoints(run.checkpoints, [])] == [7, 4]


def test_a_stage_whose_last_steps_were_skipped_is_finished_only_if_its_weights_can_still_learn(run: StageRun) -> None:
    """Two bad batches at the very end are the batches' fault; where nothing after them works either, the weights'."""
    stage = replace(STAGE, end_after=4, roll_back_after=3, save_every_steps=2)
    run = replace(run, stage=stage, samples=None)
    on_ranks(2, run, before_step=partial(poison_until_tried, range(5, 7)))
    good = finished_checkpoint(run.checkpoints)
    assert good.manifest.optimizer_steps == 4
    before = next(each for each in complete_checkpoints(run.checkpoints, []) if each.manifest.step == 4)
    readers = [SliceReader(each) for each in (before, good)]
    for name in good.manifest.shapes:
        for key in KEYS:
            assert torch.equal(*(reader.whole(name, key) for reader in readers)), "what was tried was learned from"
    spoiled = named(run, "spoiled")
    on_ranks(2, spoiled, before_step=partial(poison, range(5, 100), "loss"))
    told = Path(f"{spoiled.output}.told").read_text()
    assert "and so were 4 more" in told and "the weights are at fault" in told
    newest = newest_complete(spoiled.checkpoints)
    assert (newest.manifest.step, newest.manifest.finished) == (4, False)
    on_ranks(2, spoiled)
    first, second = (trained_state(finished_checkpoint(each.checkpoints)) for each in (run, spoiled))
    assert any(not torch.equal(first[name], second[name]) for name in first), "once mended, they learn from all steps"


@pytest.mark.long
def test_a_stage_that_diverged_at_its_end_is_not_finished(run: StageRun) -> None:
    """The losses are finite, but ten thousand times the usual one: tried steps are compared with earlier losses."""
    stage = replace(STAGE, steps=20, end_after=4, roll_back_after=0, save_every_steps=4, validate_every_steps=0)
    run = replace(run, stage=stage, samples=None, held_out=())
    on_ranks(2, run, before_step=partial(poison, range(19, 100), "spike"))
    assert "is more than 3 times the usual" in Path(f"{run.output}.told").read_text()
    assert newest_complete(run.checkpoints).manifest.step == 16


@pytest.mark.long
def test_weights_that_were_saved_among_skipped_steps_are_not_what_a_later_attempt_goes_back_to(run: StageRun) -> None:
    """A stop saves what there is; if the skipping goes on afterwards, that is what is suspicious."""
    stage = replace(STAGE, steps=12, save_every_steps=2, roll_back_after=3, end_after=9, keep_checkpoints=9)
    run = replace(run, stage=stage, samples=None)
    stop = (4, StopRequest("preempted", "somebody asked"))
    on_ranks(2, run, before_step=partial(poison, range(3, 20), "loss"), stop=stop)
    newest = newest_complete(run.checkpoints)
    assert (newest.manifest.step, newest.manifest.guard["in_row"]) == (4, 2)
    on_ranks(2, run, before_step=partial(poison, range(1, 20), "loss"))
    told = Path(f"{run.output}.told").read_text()
    assert "resumes from step 4" in told and told.rindex("resumes from step 2") > told.index("resumes from step 4")


def test_a_spike_is_skipped_once_there_is_a_usual_loss(run: StageRun) -> None:
    stage = replace(STAGE, steps=20, save_every_steps=18, validate_every_steps=0)
    run = replace(run, stage=stage, samples=None, held_out=())
    figures = on_ranks(2, run, before_step=partial(poison, range(19, 20), "spike"), stop_after=None)
    assert [each["skipped_steps"] for each in figures] == [0] * 18 + [1, 1]
    (line,) = (run.output / SKIPPED_FILE).read_text().splitlines()
    assert "is more than 3 times the usual" in json.loads(line)["problem"]
    history = newest_complete(run.checkpoints).manifest.guard["history"]
    assert len(history) == 19, "the spike itself is not what a later loss is compared with"
