"""Two gloo ranks under ZeRO-3: partitioned for real, equal to one process, resumable bit for bit."""

import itertools
import json
import math
import os
import resource
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.checkpoints.manifest import complete_checkpoints, finished_checkpoint, newest_complete, rank_file
from pipeline.checkpoints.optimizer_slices import KEYS
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.config.tasks import Task
from pipeline.data.collate import MicroBatch
from pipeline.errors import InputError
from pipeline.model.loading import load_base
from pipeline.model.mars import MarsForCausalLM, is_trained, is_visual_table
from pipeline.training.engine import accumulate, make_engine
from pipeline.training.objective import MicroLoss, Objective
from pipeline.training.skipped_steps import SKIPPED_FILE
from pipeline.training.stage_run import StageRun, make_plan
from pipeline.training.step import train_step
from pipeline.training.step_guard import StepGuard
from pipeline.training.stop_request import StopRequest
from tests.support.ranks import STAGE, free_port, join, losses, named, on_ranks, spawn
from tests.support.s3 import BUCKET, SECRET, FaultyS3
from tests.support.small_models import CODEBOOK
from tests.support.trained_weights import load_trained, trained_state


def start_of(run: StageRun) -> MarsForCausalLM:
    return load_base(run.base, CODEBOOK, torch.float32, **run.model_options)


@pytest.mark.parametrize(
    "zero, stage",
    [
        ({}, {"checkpoint_every_layers": 1}),
        ({"frozen_whole": True}, {"checkpoint_every_layers": 2}),
        pytest.param({}, {}, marks=pytest.mark.long),
        pytest.param({"zero_stage": 2}, {}, marks=pytest.mark.long),
        pytest.param({}, {"compile_layers": True, "checkpoint_every_layers": 1}, marks=pytest.mark.long),
    ],
    ids=[
        "zero 3, recomputing",
        "zero 3, frozen whole, recomputing half",
        "zero 3",
        "zero 2",
        "zero 3, compiled, recomputing",
    ],
)
def test_two_ranks_train_as_one_process_does_and_the_frozen_half_stays(
    run: StageRun, zero: dict[str, Any], stage: dict[str, Any]
) -> None:
    run = replace(run, zero=replace(run.zero, **zero), stage=replace(STAGE, **stage))
    shared_before = {path.name for path in Path("/dev/shm").glob("deepspeed*")}
    two = on_ranks(2, run)
    one = on_ranks(1, named(run, "alone"))
    left = {path.name for path in Path("/dev/shm").glob("deepspeed*")} - shared_before
    assert not left, "memory of every run would stay taken until the machine restarts"
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(two) == STAGE.steps
    events = EventAccumulator(str(run.output / "tensorboard"))
    events.Reload()
    assert [picture.step for picture in events.Images("samples")] == [3, 6]
    width, height = events.Images("samples")[0].width, events.Images("samples")[0].height
    assert (width, height) == (2 * (4 * 16 + 4), 3 * 16 + 4 + 4 * 16 + 4), "two prompts, both resolutions"
    seen = {name for figures in two for name in figures if name.startswith("loss/")}
    assert seen == {f"loss/{task.name.lower()}" for task in Task}
    state = trained_state(finished_checkpoint(run.checkpoints))
    model = start_of(run)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    load_trained(model, state, run.output)
    for name, parameter in model.named_parameters():
        if not is_trained(name):
            assert torch.equal(parameter, before[name]), name
        elif parameter.dim() == 2:
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"zero_stage": 2, "dtype": "bfloat16"},
        pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.long),
        pytest.param({"frozen_whole": True}, marks=pytest.mark.long),
        pytest.param({"zero_stage": 2}, marks=pytest.mark.long),
    ],
    ids=["zero 3", "zero 2, bfloat16", "zero 3, bfloat16", "frozen whole", "zero 2"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run: StageRun, how: dict[str, Any]) -> None:
    run = replace(run, zero=replace(run.zero, **how))
    whole = on_ranks(2, run)
    other = named(run, "interrupted")
    before = on_ranks(2, other, stop_after=4)  # saved at step 3; step 4 is lost
    later = on_ranks(2, other)
    assert [each["step"] for each in later] == [4, 5, 6]
    assert all(0 <= each["data_wait_s"] <= each["step_s"] for each in whole)
    for each in whole:
        kinds = [name.removeprefix("forward_s/") for name in each if name.startswith("forward_s/")]
        timed_s = each["update_s"] + sum(each[f"forward_s/{kind}"] for kind in kinds)
        assert kinds and 0 < timed_s < each["step_s"], "backward passes come on top"
        assert sum(each[f"flop/{kind}"] for kind in kinds) == each["flop"]
    assert [each["step"] for each in whole if "checkpoint_stall_share" in each] == [4], "told with the next step"
    assert losses(before[:3]) + losses(later) == losses(whole)
    ends = [finished_checkpoint(each.checkpoints) for each in (run, other)]
    readers = [SliceReader(end) for end in ends]
    for name in ends[0].manifest.shapes:
        for key in KEYS:
            first, second = (reader.whole(name, key) for reader in readers)
            assert torch.equal(first, second), (name, key)


@pytest.mark.parametrize(
    "worlds, how",
    [
        ((2, 1, 2), {}),
        pytest.param((1, 2), {}, marks=pytest.mark.long),
        pytest.param((4, 2), {}, marks=pytest.mark.long),
        pytest.param((2, 1, 2), {"zero_stage": 2}, marks=pytest.mark.long),
        pytest.param((4, 2), {"persistence_threshold": 10_000}, marks=pytest.mark.long),
    ],
)
def test_a_run_goes_on_at_another_number_of_workers_as_if_nothing_had_been(
    run: StageRun, worlds: tuple[int, ...], how: dict[str, Any]
) -> None:
    """The same samples in the same steps; only the order of additions differs."""
    run = replace(run, zero=replace(run.zero, **how), stage=replace(STAGE, steps=24, save_every_steps=2))
    whole = on_ranks(2, named(run, "whole"))
    figures: list[dict] = []
    for number, world_size in enumerate(worlds, start=1):
        last = number == len(worlds)
        figures += on_ranks(world_size, run, stop_after=None if last else 2)
    assert [each["step"] for each in figures] == [*range(1, 25)]
    assert losses(figures) == pytest.approx(losses(whole), rel=1e-5)
    saved_by = [checkpoint.manifest.world_size for checkpoint in complete_checkpoints(run.checkpoints, [])]
    assert saved_by == [worlds[-1]] * 2, "each is read by whichever number of workers comes next"


def test_a_checkpoint_that_changed_is_passed_over_by_all_ranks(run: StageRun) -> None:
    """One byte of one rank's file: the other rank could have read its own."""
    run = replace(run, stage=replace(STAGE, save_every_steps=2))
    whole = on_ranks(2, named(run, "whole"))
    on_ranks(2, run, stop_after=5)
    newest = newest_complete(run.checkpoints)
    assert newest.manifest.step == 4
    path = Path(run.checkpoints, newest.name, rank_file(1))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    second = on_ranks(2, run)
    assert [each["step"] for each in second] == [3, 4, 5, 6]
    assert losses(second) == losses(whole)[-len(losses(second)) :]
    said = Path(f"{run.output}.told").read_text()
    assert f"passed over checkpoint {newest.name}: {newest.name}/{rank_file(1)} has changed" in said
    assert "goes on from step 2" in said


def test_a_run_none_of_whose_checkpoints_can_be_read_does_not_start_anew(run: StageRun) -> None:
    run = replace(run, stage=replace(STAGE, save_every_steps=2), samples=None)
    on_ranks(2, run, stop_after=5)
    saved = [checkpoint.name for checkpoint in complete_checkpoints(run.checkpoints, [])]
    for name in saved:
        path = Path(run.checkpoints, name, rank_file(1))
        path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    assert not on_ranks(2, run)
    told = Path(f"{run.output}.told").read_text()
    assert "InputError: no checkpoint in" in told and all(
        f"{name}/{rank_file(1)} has changed" in told for name in saved
    )
    assert [checkpoint.name for checkpoint in complete_checkpoints(run.checkpoints, [])] == saved


def _full_disk_of_rank_1(rank: int, step: int) -> None:
    """Files cannot grow beyond 1,000 bytes while steps 1 to 4 run: the kernel refuses, as on a full disk."""
    if rank == 1 and step in (1, 5):
        time.sleep(1)  # what is being written is to meet the limit that it began under
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (1000 if step == 1 else resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )


def _full_disk_of_rank_0(rank: int, step: int) -> None:
    """As above, of the rank that writes for all: TensorBoard's events, the list of skipped steps."""
    if rank == 0 and step == 1:
        time.sleep(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
    if rank == 0 and step == 10:
        time.sleep(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    _poison(range(4, 6), "loss", rank, step)


def test_training_goes_on_where_the_first_ranks_disk_is_full(run: StageRun) -> None:
    stage = replace(STAGE, steps=26, save_every_steps=2, sample_every_steps=2, validate_every_steps=0)
    run = replace(run, stage=stage, held_out=())
    whole = on_ranks(2, named(run, "whole"), before_step=partial(_poison, range(4, 6), "loss"))
    (run.output / SKIPPED_FILE).parent.mkdir(parents=True)
    (run.output / SKIPPED_FILE).write_text("x" * 3999 + "\n")
    figures = on_ranks(2, run, before_step=_full_disk_of_rank_0)
    assert losses(figures) == losses(whole)
    told = Path(f"{run.output}.told").read_text()
    assert "TensorBoard does not take figures any more" in told and f"{SKIPPED_FILE} could not be written" in told
    lines = (run.output / SKIPPED_FILE).read_text().removeprefix("x" * 3999 + "\n").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 5], "they are written once there is room again"
    assert finished_checkpoint(run.checkpoints).manifest.step == 26
    events = EventAccumulator(str(run.output / "tensorboard"))
    events.Reload()
    assert events.Scalars("learning_rate")[-1].step == 26, "it goes on once there is room again"


def test_training_goes_on_where_a_checkpoint_cannot_be_written(run: StageRun) -> None:
    run = replace(run, stage=replace(STAGE, save_every_steps=2, keep_checkpoints=9), samples=None)
    whole = on_ranks(2, named(run, "whole"))
    figures = on_ranks(2, run, before_step=_full_disk_of_rank_1)
    assert losses(figures) == losses(whole)
    said = Path(f"{run.output}.told").read_text()
    assert "step-00000002" in said
    assert "could not be written and does not count: rank-00001.safetensors: " in said and "File too large" in said
    counted = [checkpoint.manifest.step for checkpoint in complete_checkpoints(run.checkpoints, [])]
    assert counted[0] == 6 and 2 not in counted
    assert not [*Path(run.checkpoints).rglob(".*")], "half a file stayed behind"


def _full_disk_at_the_end(rank: int, step: int) -> None:
    if rank == 1 and step == 4:
        time.sleep(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def test_a_stop_whose_checkpoint_cannot_be_written_says_so_and_the_one_before_is_gone_on_from(run: StageRun) -> None:
    run = replace(run, stage=replace(STAGE, save_every_steps=1, keep_checkpoints=9), samples=None)
    on_ranks(2, run, before_step=_full_disk_at_the_end, stop=(5, StopRequest("preempted", "somebody asked")))
    told = Path(f"{run.output}.told").read_text()
    assert "StoppedError: somebody asked; no checkpoint could be written" in told
    assert "PreemptedError" not in told, "its exit code would promise a checkpoint"
    kept = newest_complete(run.checkpoints).manifest.step
    later = on_ranks(2, run)
    assert 1 <= kept < 5 and [each["step"] for each in later] == list(range(kept + 1, STAGE.steps + 1))


def test_checkpoints_go_to_s3_and_come_back_though_it_fails_now_and_then(run: StageRun, s3: FaultyS3) -> None:
    run = replace(run, stage=replace(STAGE, save_every_steps=2))
    whole = on_ranks(2, named(run, "whole"))
    run = replace(run, checkpoints=f"s3://{BUCKET}/run/stage1")
    s3.fault_every = 5
    on_ranks(2, run, stop_after=3, environment=s3.environment())
    second = on_ranks(1, run, environment=s3.environment())
    assert [each["step"] for each in second] == [3, 4, 5, 6]
    assert losses(second) == pytest.approx(losses(whole)[-len(losses(second)) :], rel=1e-5)
    assert s3.injected.total() > 3
    written = [path for path in run.output.parent.rglob("*") if path.is_file()]
    assert len(written) > 10 and not [path for path in written if SECRET.encode() in path.read_bytes()]


def _poison(steps: range, how: str, rank: int, step: int) -> None:
    """Makes the losses, or only the gradients, of some steps useless, on rank 1 alone."""
    import pipeline.training.objective as objective

    if not hasattr(objective, "_real"):
        objective._real = objective.Objective.forward
    factor = {"loss": math.nan, "gradient": 1.0, "spike": 1e4}[how] if rank == 1 and step in steps else 1.0

    def forward(self, batches: list[MicroBatch]) -> MicroLoss:
        part = objective._real(self, batches)
        loss = part.loss * factor
        if how == "gradient" and rank == 1 and step in steps and loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * math.inf)
        return replace(part, loss=loss, task_losses=part.task_losses * factor)

    objective.Objective.forward = forward


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
    run = replace(run, zero=replace(run.zero, **zero), stage=replace(STAGE, save_every_steps=1, keep_checkpoints=9))
    figures = on_ranks(2, run, before_step=partial(_poison, range(4, 6), how))
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
    figures = on_ranks(2, run, before_step=partial(_poison, range(5, 20), "loss"))
    assert [each["step"] for each in figures] == [*range(1, 9)]
    told = Path(f"{run.output}.told").read_text()
    assert "goes on from step 3" in told, "the weights of step 4 may be what is wrong"
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
    on_ranks(2, run, before_step=partial(_poison, range(5, 20), "loss"))
    assert [each.manifest.step for each in complete_checkpoints(run.checkpoints, [])] == [7, 4]


def test_a_stage_whose_last_steps_were_skipped_is_finished_only_if_its_weights_can_still_learn(run: StageRun) -> None:
    """Two bad batches at the very end are the batches' fault; where nothing after them works either, the weights'."""
    stage = replace(STAGE, end_after=4, roll_back_after=3, save_every_steps=2)
    run = replace(run, stage=stage, samples=None)
    on_ranks(2, run, before_step=partial(_poison_until_tried, range(5, 7)))
    good = finished_checkpoint(run.checkpoints)
    assert good.manifest.optimizer_steps == 4
    before = next(each for each in complete_checkpoints(run.checkpoints, []) if each.manifest.step == 4)
    readers = [SliceReader(each) for each in (before, good)]
    for name in good.manifest.shapes:
        for key in KEYS:
            assert torch.equal(*(reader.whole(name, key) for reader in readers)), "what was tried was learned from"
    spoiled = named(run, "spoiled")
    on_ranks(2, spoiled, before_step=partial(_poison, range(5, 100), "loss"))
    told = Path(f"{spoiled.output}.told").read_text()
    assert "none of 4 more could be learned from" in told and "the weights are at fault" in told
    newest = newest_complete(spoiled.checkpoints)
    assert (newest.manifest.step, newest.manifest.finished) == (4, False)
    on_ranks(2, spoiled)
    first, second = (trained_state(finished_checkpoint(each.checkpoints)) for each in (run, spoiled))
    assert any(not torch.equal(first[name], second[name]) for name in first), "once mended, they learn from all steps"


@pytest.mark.long
def test_a_stage_that_diverged_at_its_end_is_not_finished(run: StageRun) -> None:
    """Finite losses, ten thousand times the usual: a try is judged by what was usual before."""
    stage = replace(STAGE, steps=20, end_after=4, roll_back_after=0, save_every_steps=4, validate_every_steps=0)
    run = replace(run, stage=stage, samples=None, held_out=())
    on_ranks(2, run, before_step=partial(_poison, range(19, 100), "spike"))
    assert "is more than 3 times the usual" in Path(f"{run.output}.told").read_text()
    assert newest_complete(run.checkpoints).manifest.step == 16


@pytest.mark.long
def test_weights_that_were_saved_among_skipped_steps_are_not_what_a_later_attempt_goes_back_to(run: StageRun) -> None:
    """A stop saves what there is; if the skipping goes on afterwards, that is what is suspicious."""
    stage = replace(STAGE, steps=12, save_every_steps=2, roll_back_after=3, end_after=9, keep_checkpoints=9)
    run = replace(run, stage=stage, samples=None)
    poison = partial(_poison, range(3, 20), "loss")
    on_ranks(2, run, before_step=poison, stop=(4, StopRequest("preempted", "somebody asked")))
    newest = newest_complete(run.checkpoints)
    assert (newest.manifest.step, newest.manifest.guard["in_row"]) == (4, 2)
    on_ranks(2, run, before_step=partial(_poison, range(1, 20), "loss"))
    told = Path(f"{run.output}.told").read_text()
    assert "goes on from step 4" in told and told.rindex("goes on from step 2") > told.index("goes on from step 4")


def _poison_until_tried(steps: range, rank: int, step: int) -> None:
    """What is wrong lies in those steps' samples: those that are tried after the stage's last step are good."""
    import pipeline.training.loop as loop

    _poison(steps, "loss", rank, step)
    real = loop.try_step

    def tried(*args: Any) -> Any:
        _poison(range(0), "loss", rank, 0)
        return real(*args)

    if step == 0:
        loop.try_step = tried


def test_a_stage_that_is_asked_to_end_saves_on_all_ranks_and_goes_on_as_if_it_had_not(run: StageRun) -> None:
    whole = on_ranks(2, named(run, "whole"))
    before = on_ranks(2, run, stop=(4, StopRequest("preempted", "somebody asked")))
    assert [each["step"] for each in before] == [1, 2, 3, 4]
    told = Path(f"{run.output}.told").read_text()
    assert "PreemptedError: somebody asked; a checkpoint was written" in told
    assert newest_complete(run.checkpoints).manifest.step == 4
    later = on_ranks(2, run)
    assert losses(before) + losses(later) == losses(whole)


def test_ranks_that_do_not_see_one_folder_are_told_so_before_they_train(run: StageRun) -> None:
    """Each node's own disk under the same path: the first rank would wait for the others' parts for ever."""
    assert not on_ranks(2, run, before_step=_a_folder_of_its_own)
    told = Path(f"{run.output}.told").read_text()
    assert "InputError: checkpoints" in told and "rank 1 on" in told and "does not see what rank 0 has just" in told


def _a_folder_of_its_own(rank: int, step: int) -> None:
    import pipeline.checkpoints.writer as writer

    if rank == 1:
        real = writer.open_storage
        writer.open_storage = lambda url: real(f"{url}-of-another-node")
        writer.owner_text = lambda url: None


def test_a_stage_goes_on_when_the_one_before_it_is_gone(run: StageRun) -> None:
    """And does not read its weights again: its own checkpoint has all of them."""
    on_ranks(2, run)
    second = replace(named(run, "stage2"), stage_number=2, initial_checkpoint=finished_checkpoint(run.checkpoints))
    whole = on_ranks(2, named(second, "whole2"))
    on_ranks(2, second, stop_after=4)
    for path in Path(run.checkpoints).rglob("rank-*.safetensors"):
        path.write_bytes(b"")
    later = on_ranks(2, second)
    assert losses(later) == losses(whole)[-len(losses(later)) :]
    other = replace(second, initial_checkpoint=finished_checkpoint(named(second, "whole2").checkpoints))
    on_ranks(2, replace(other, stage=replace(other.stage, steps=6)))
    assert "was made with another checkpoint to start from" in Path(f"{second.output}.told").read_text()


def test_a_damaged_stage_before_is_named_with_what_to_do(run: StageRun) -> None:
    on_ranks(2, run)
    initial = finished_checkpoint(run.checkpoints)
    path = Path(run.checkpoints, initial.name, rank_file(1))
    path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    second = replace(named(run, "stage2"), stage_number=2, initial_checkpoint=initial)
    assert not on_ranks(2, second)
    told = Path(f"{second.output}.told").read_text()
    assert f"{rank_file(1)} has changed" in told and "move it away and run the stage before again" in told
    foreign = replace(initial, manifest=replace(initial.manifest, base_sha256="another"))
    assert not on_ranks(1, replace(second, initial_checkpoint=foreign))
    assert "was trained on another language expert" in Path(f"{second.output}.told").read_text()


def test_a_spike_is_skipped_once_there_is_a_usual_loss(run: StageRun) -> None:
    stage = replace(STAGE, steps=20, save_every_steps=18, validate_every_steps=0)
    run = replace(run, stage=stage, samples=None, held_out=())
    figures = on_ranks(2, run, before_step=partial(_poison, range(19, 20), "spike"), stop_after=None)
    assert [each["skipped_steps"] for each in figures] == [0] * 18 + [1, 1]
    (line,) = (run.output / SKIPPED_FILE).read_text().splitlines()
    assert "is more than 3 times the usual" in json.loads(line)["problem"]
    history = newest_complete(run.checkpoints).manifest.guard["history"]
    assert len(history) == 19, "the spike itself is not what a later loss is compared with"


def _flip_a_bit(name: str, rank: int, step: int) -> None:
    """What a bad memory cell of rank 1 does before step 2."""
    import pipeline.training.loop as loop

    real = loop.ReplicaCheck.__call__

    def flipped(self, *args: Any) -> Any:
        if rank == 1:
            module = self._engine.module
            parameter = dict([*module.named_parameters(), *module.named_buffers()])[name]
            held = getattr(parameter, "ds_tensor", parameter)
            if getattr(parameter, "ds_persist", False) and parameter.requires_grad:
                held = parameter
            held.data.view(torch.int16).flatten()[3] ^= 4
        return real(self, *args)

    if step == 2:
        loop.ReplicaCheck.__call__ = flipped


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
    figures = on_ranks(2, run, before_step=partial(_flip_a_bit, name))
    told = Path(f"{run.output}.told").read_text()
    assert said in told and len(figures) == 1, told


def _adds_otherwise_the_second_time(rank: int, step: int) -> None:
    """A rank whose device adds up a little more when it runs a step again."""
    import pipeline.training.objective as objective
    import pipeline.training.step_verification as verification

    real, forward, count = verification.train_step, objective.Objective.forward, itertools.count(1)

    def more(self, batches: list[MicroBatch]) -> Any:
        part = forward(self, batches)
        return replace(part, loss=part.loss * 1.0001, task_losses=part.task_losses * 1.0001)

    def counted(*args: Any) -> Any:
        if next(count) == 2 and rank == 1:
            objective.Objective.forward = more
        return real(*args)

    verification.train_step = counted


def test_a_rank_that_computes_otherwise_the_second_time_is_found(run: StageRun) -> None:
    on_ranks(2, replace(run, verify_only=True), before_step=_adds_otherwise_the_second_time)
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


def _gradient_rank(rank: int, port: int, run: StageRun, result: Path) -> None:
    from deepspeed.utils import safe_get_full_grad

    join(rank, 2, port)
    model = load_base(run.base, CODEBOOK, torch.float32)
    plan = make_plan(run, model.config.vocabulary)
    engine = make_engine(Objective(model), run.stage, run.zero)
    micro_steps = plan.step(0, rank, 2).micro_steps
    for number, batches in enumerate(micro_steps, start=1):
        accumulate(engine, engine(batches).loss, last=number == len(micro_steps))
        if number < len(micro_steps):
            engine.step()
    named = dict(engine.module.mars.named_parameters())
    gradients = {name: safe_get_full_grad(p) for name, p in named.items() if is_trained(name)}
    if rank == 0:
        torch.save((len(micro_steps), gradients), result)
    dist.barrier()
    os._exit(0)


def test_two_ranks_and_several_micro_steps_give_the_gradient_of_one_pass(run: StageRun, tmp_path: Path) -> None:
    run = replace(run, stage=replace(STAGE, global_batch_size=24))
    spawn(_gradient_rank, 2, free_port(), run, tmp_path / "gradients")
    num_micro_steps, gradients = torch.load(tmp_path / "gradients")
    assert num_micro_steps > 1
    model = load_base(run.base, CODEBOOK, torch.float32)
    for batches in make_plan(run, model.config.vocabulary).step(0, 0, 1).micro_steps:
        Objective(model)(batches).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if is_trained(name)}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def _accumulation_rank(rank: int, port: int, run: StageRun, result: Path) -> None:
    from deepspeed.utils import safe_get_full_grad

    join(rank, 2, port)
    model = load_base(run.base, CODEBOOK, torch.bfloat16)
    engine = make_engine(Scaled(model), run.stage, replace(run.zero, dtype="bfloat16"))
    # 1 + 255 * 2^-9: in bfloat16, whose step at 1 is 2^-7, every one of the small ones would be lost.
    sizes = [1.0] + [2.0**-9] * 255
    for number, size in enumerate(sizes, start=1):
        accumulate(engine, engine(size) / dist.get_world_size(), last=number == len(sizes))
        if number < len(sizes):
            engine.step()
    gradient = safe_get_full_grad(engine.module.mars.model.embed_visual.weight)
    if rank == 0:
        torch.save(gradient, result)
    dist.barrier()
    os._exit(0)


class Scaled(Objective):
    """Its gradient for every visual embedding row is the number it is called with."""

    def forward(self, size: float) -> torch.Tensor:
        ids = torch.arange(self.mars.config.vocabulary.num_visual) + self.mars.config.text_vocab_size
        return self.mars.model.embed_visual(ids).sum() * size


def test_gradients_of_micro_steps_add_up_in_float32_under_bfloat16(run: StageRun, tmp_path: Path) -> None:
    spawn(_accumulation_rank, 2, free_port(), run, tmp_path / "sum")
    gradient = torch.load(tmp_path / "sum")
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.full_like(gradient, 1 + 255 * 2.0**-9))


def test_the_visual_tables_learn_at_their_own_rate(run: StageRun) -> None:
    on_ranks(1, replace(run, stage=replace(STAGE, steps=2, table_rate_factor=0.0)))
    state = trained_state(finished_checkpoint(run.checkpoints))
    start = dict(start_of(run).named_parameters())
    still = {name for name, tensor in state.items() if torch.equal(tensor, start[name])}
    assert {name for name in state if is_visual_table(name)} <= still
    assert sum(name not in still for name in state) > 10, "only the tables were to stand still"


def test_a_checkpoint_of_another_model_is_refused_by_name(run: StageRun) -> None:
    on_ranks(1, replace(run, stage=replace(STAGE, steps=1)))
    state = trained_state(finished_checkpoint(run.checkpoints))
    with pytest.raises(InputError, match=r"another model.*shape"):
        load_trained(load_base(run.base, CODEBOOK + 8, torch.float32), state, run.output)


def _bytes_rank(rank: int, port: int, run: StageRun, result: Path) -> None:
    join(rank, 2, port)
    model = load_base(run.base, CODEBOOK, torch.float32)
    whole = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    plan = make_plan(run, model.config.vocabulary)
    engine = make_engine(Objective(model), run.stage, run.zero)
    for number in range(2):
        train_step(engine, plan.step(number, rank, 2), run.stage, StepGuard(0.0, 0, 1), torch.device("cpu"))
    held = sum(p.ds_tensor.numel() for p in engine.module.parameters())
    left_whole = sum(p.data.numel() for p in engine.module.parameters())
    moments = sum(
        value.numel()
        for state in engine.optimizer.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.dim()
    )
    torch.save((held / whole, left_whole, moments / (2 * trained)), f"{result}-{rank}")
    dist.barrier()
    os._exit(0)


def test_between_steps_a_rank_holds_half_of_the_parameters_and_of_the_optimizer(run: StageRun, tmp_path: Path) -> None:
    spawn(_bytes_rank, 2, free_port(), run, tmp_path / "bytes")
    for rank in range(2):
        parameters, left_whole, moments = torch.load(f"{tmp_path / 'bytes'}-{rank}")
        assert parameters == pytest.approx(0.5, abs=0.05)
        assert moments == pytest.approx(0.5, abs=0.05)
        assert left_whole < 100, "gathered parameters were not released"
