"""An interrupted stage resumes from the newest good checkpoint, with the results of an uninterrupted one."""

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.checkpoints.manifest import complete_checkpoints, finished_checkpoint, newest_complete, rank_file
from pipeline.checkpoints.optimizer_slices import KEYS
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.errors import InputError
from pipeline.model.loading import load_initial_model
from pipeline.training.stage_run import StageRun
from pipeline.training.stop_request import StopRequest
from tests.support.faults import use_a_folder_of_its_own
from tests.support.faulty_server import FaultyServer, ServerOf
from tests.support.ranks import STAGE, Undisturbed, losses, named, on_ranks
from tests.support.s3 import BUCKET, SECRET
from tests.support.small_models import CODEBOOK
from tests.support.trained_weights import load_trained, trained_state
from tokenization.files.storage import open_storage
from tokenization.patience import OUTAGE_VARIABLE

pytestmark = pytest.mark.slow


def copied(trained: StageRun, run: StageRun) -> StageRun:
    """`run` as if it were what has been trained."""
    shutil.copytree(trained.checkpoints, run.checkpoints)
    return run


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
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    run: StageRun, undisturbed: Undisturbed, how: dict[str, Any]
) -> None:
    uninterrupted, whole = undisturbed(**how)
    other = replace(run, zero=replace(run.zero, **how))
    before = on_ranks(2, other, stop_after=4)  # saved at step 3; step 4 is lost
    # Who builds the samples makes no difference, nor if two nodes share the reading.
    later = on_ranks(2, replace(other, loader_process=not how), ranks_per_node=0 if how else 1)
    assert [each["step"] for each in later] == [4, 5, 6]
    assert all(0 <= each["data_wait_s"] <= each["step_s"] for each in whole)
    for each in whole:
        kinds = [name.removeprefix("forward_s/") for name in each if name.startswith("forward_s/")]
        timed_s = each["update_s"] + sum(each[f"forward_s/{kind}"] for kind in kinds)
        assert kinds and 0 < timed_s < each["step_s"], "backward passes come on top"
        assert sum(each[f"flop/{kind}"] for kind in kinds) == each["flop"]
    assert [each["step"] for each in whole if "checkpoint_stall_share" in each] == [4], "told with the next step"
    assert losses(before[:3]) + losses(later) == losses(whole)
    ends = [finished_checkpoint(each.checkpoints) for each in (uninterrupted, other)]
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
    run = replace(run, zero=replace(run.zero, **how), stage=replace(STAGE, steps=12, save_every_steps=2), samples=None)
    whole = on_ranks(2, named(run, "whole"))
    figures: list[dict] = []
    for number, world_size in enumerate(worlds, start=1):
        last = number == len(worlds)
        figures += on_ranks(world_size, run, stop_after=None if last else 2)
    assert [each["step"] for each in figures] == [*range(1, 13)]
    assert losses(figures) == pytest.approx(losses(whole), rel=1e-5)
    saved_by = [checkpoint.manifest.world_size for checkpoint in complete_checkpoints(run.checkpoints, [])]
    assert saved_by == [worlds[-1]] * 2, "each is read by whichever number of workers comes next"


def test_a_checkpoint_that_changed_is_passed_over_by_all_ranks(run: StageRun, undisturbed: Undisturbed) -> None:
    """One byte of one rank's file: the other rank could have read its own."""
    run = replace(run, stage=replace(STAGE, save_every_steps=2), samples=None)
    _, whole = undisturbed()
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
    assert "resumes from step 2" in said


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


@pytest.mark.parametrize("scheme", ["s3", *(pytest.param(each, marks=pytest.mark.long) for each in ("gs", "az"))])
def test_checkpoints_go_to_a_bucket_and_come_back_though_it_fails_now_and_then(
    run: StageRun, undisturbed: Undisturbed, scheme: str, server_of: ServerOf
) -> None:
    _, whole = undisturbed()
    server = server_of(scheme)
    run = replace(run, stage=replace(STAGE, save_every_steps=2), checkpoints=f"{scheme}://{BUCKET}/run/stage1")
    server.fault_every = 5
    on_ranks(2, run, stop_after=3, environment=server.environment())
    second = on_ranks(1, run, environment=server.environment())
    assert [each["step"] for each in second] == [3, 4, 5, 6]
    assert losses(second) == pytest.approx(losses(whole)[-len(losses(second)) :], rel=1e-5)
    assert server.injected.total() > 3
    written = [path for path in run.output.parent.rglob("*") if path.is_file()]
    assert Path(f"{run.output}.told") in written and any("tfevents" in path.name for path in written)
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("scheme", "away_s"),
    [("s3", 8.0), *(pytest.param(scheme, 600.0, marks=pytest.mark.long) for scheme in ("s3", "gs", "az"))],
)
def test_an_outage_of_the_storage_is_waited_for_and_loses_nothing(
    run: StageRun, undisturbed: Undisturbed, server_of: ServerOf, scheme: str, away_s: float
) -> None:
    """The service is away while checkpoints are written, and comes back."""
    _, whole = undisturbed()
    server = server_of(scheme)
    run = replace(run, stage=replace(STAGE, save_every_steps=2, keep_checkpoints=9), samples=None)
    run = replace(run, checkpoints=f"{scheme}://{BUCKET}/run/stage1")
    began = threading.Thread(target=take_away, args=(server, run.checkpoints, away_s), daemon=True)
    began.start()
    figures = on_ranks(2, run, environment=server.environment() | {OUTAGE_VARIABLE: str(2 * away_s)})
    assert losses(figures) == losses(whole)
    assert server.turned_away > 2, "the service was away while it was needed"
    steps = [checkpoint.manifest.step for checkpoint in complete_checkpoints(run.checkpoints, [])]
    assert steps == [6, 4, 2] and len(set(open_storage(run.checkpoints).names())) == 3 * (2 * 2 + 1) + 1


def take_away(server: FaultyServer, checkpoints: str, seconds: float) -> None:
    """Lets the service be away once the first rank's file of a checkpoint arrives."""
    while not any(name.startswith("step-") for name in open_storage(checkpoints).names()):
        time.sleep(0.05)
    server.down = True
    time.sleep(seconds)
    server.down = False


def test_a_stage_that_is_asked_to_end_saves_on_all_ranks_and_goes_on_as_if_it_had_not(
    run: StageRun, undisturbed: Undisturbed
) -> None:
    _, whole = undisturbed()
    run = replace(run, samples=None)
    before = on_ranks(2, run, stop=(4, StopRequest("preempted", "somebody asked")))
    assert [each["step"] for each in before] == [1, 2, 3, 4]
    told = Path(f"{run.output}.told").read_text()
    assert "PreemptedError: somebody asked; a checkpoint was written" in told
    assert newest_complete(run.checkpoints).manifest.step == 4
    later = on_ranks(2, run)
    assert losses(before) + losses(later) == losses(whole)


def test_ranks_that_do_not_see_one_folder_are_told_so_before_they_train(run: StageRun) -> None:
    """Each node's own disk under the same path: the first rank would wait for the others' parts for ever."""
    assert not on_ranks(2, run, before_step=use_a_folder_of_its_own)
    told = Path(f"{run.output}.told").read_text()
    assert "InputError: checkpoints" in told and "rank 1 on" in told and "does not see what rank 0 has just" in told


def test_a_stage_goes_on_when_the_one_before_it_is_gone(run: StageRun, undisturbed: Undisturbed) -> None:
    """It does not read the previous stage's weights again: its own checkpoint has all of them."""
    first = copied(undisturbed()[0], run)
    second = replace(named(run, "stage2"), stage_number=2, initial_checkpoint=finished_checkpoint(first.checkpoints))
    second = replace(second, samples=None)
    whole = on_ranks(2, named(second, "whole2"))
    on_ranks(2, second, stop_after=4)
    for path in Path(first.checkpoints).rglob("rank-*.safetensors"):
        path.write_bytes(b"")
    later = on_ranks(2, second)
    assert losses(later) == losses(whole)[-len(losses(later)) :]
    other = replace(second, initial_checkpoint=finished_checkpoint(named(second, "whole2").checkpoints))
    on_ranks(2, replace(other, stage=replace(other.stage, steps=6)))
    assert "was made with another checkpoint to start from" in Path(f"{second.output}.told").read_text()


def test_a_damaged_stage_before_is_named_with_what_to_do(run: StageRun, undisturbed: Undisturbed) -> None:
    first = copied(undisturbed()[0], run)
    initial = finished_checkpoint(first.checkpoints)
    path = Path(first.checkpoints, initial.name, rank_file(1))
    path.write_bytes(path.read_bytes()[:-5] + b"wrong")
    second = replace(named(run, "stage2"), stage_number=2, initial_checkpoint=initial)
    assert not on_ranks(2, second)
    told = Path(f"{second.output}.told").read_text()
    assert f"{rank_file(1)} has changed" in told and "move it away and run the previous stage again" in told
    foreign = replace(initial, manifest=replace(initial.manifest, base_sha256="another"))
    assert not on_ranks(1, replace(second, initial_checkpoint=foreign))
    assert "was trained on another language expert" in Path(f"{second.output}.told").read_text()


def test_a_checkpoint_of_another_model_is_refused_by_name(run: StageRun, undisturbed: Undisturbed) -> None:
    state = trained_state(finished_checkpoint(undisturbed()[0].checkpoints))
    with pytest.raises(InputError, match=r"another model.*shape"):
        load_trained(load_initial_model(run.initial_model, CODEBOOK + 8, torch.float32), state, run.output)
