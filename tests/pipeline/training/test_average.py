"""A stage can keep a moving average of its weights: in checkpoints, at any number of ranks, and for exports."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from pipeline.checkpoints.manifest import complete_checkpoints, finished_checkpoint
from pipeline.checkpoints.optimizer_slices import AVERAGE
from pipeline.checkpoints.slice_files import SliceReader
from pipeline.config.stage import StageConfig
from pipeline.errors import InputError
from pipeline.export.export import export_model, exported_from, load_export
from pipeline.training.stage_run import StageRun
from pipeline.training.step import ema_decay
from tests.support.past_run import PAST_RUN
from tests.support.ranks import STAGE, Undisturbed, on_ranks
from tests.support.small_models import CODEBOOK

DECAY = 0.3


def test_the_first_steps_have_a_lower_decay() -> None:
    stage = StageConfig("test", ema_decay=0.999)
    assert [ema_decay(stage, step) for step in (0, 1, 90)] == [0.1, 2 / 11, 0.91]
    assert ema_decay(stage, 100_000) == 0.999


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_average_that_never_moves_or_grows_is_refused(decay: float) -> None:
    assert (
        f"ema_decay is {decay}, but must be at least 0 and below 1" in StageConfig("test", ema_decay=decay).problems()
    )


@pytest.mark.slow
def test_the_average_follows_the_weights_through_a_resume_with_other_ranks_and_is_exported(
    run: StageRun, tmp_path: Path
) -> None:
    stage = replace(STAGE, ema_decay=DECAY, save_every_steps=1, keep_checkpoints=9, validate_every_steps=0)
    run = replace(run, stage=stage, samples=None, held_out=())
    on_ranks(2, run, stop_after=3)
    on_ranks(1, run)
    checkpoints = sorted(complete_checkpoints(run.checkpoints, []), key=lambda each: each.manifest.step)
    assert [each.manifest.step for each in checkpoints] == [*range(1, STAGE.steps + 1)]
    readers = [SliceReader(each) for each in checkpoints]
    for name in checkpoints[0].manifest.shapes:
        average = readers[0].whole(name, AVERAGE)
        for step, reader in enumerate(readers[1:], start=1):
            average = average.lerp(reader.whole(name), 1 - ema_decay(stage, step))
            torch.testing.assert_close(reader.whole(name, AVERAGE), average, rtol=1e-6, atol=1e-7)
    assert not torch.equal(average, readers[-1].whole(name)), "the average is not the weights"

    export_in(tmp_path / "export", run, averaged=True)
    assert exported_from(tmp_path / "export") == f"{checkpoints[-1].name}, averaged"
    exported = dict(load_export(tmp_path / "export").named_parameters())
    assert torch.equal(exported[name.removeprefix("mars.")], average.bfloat16())


@pytest.mark.slow
def test_without_an_average_checkpoints_are_as_before_and_none_can_be_exported(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run, _ = undisturbed()
    files = finished_checkpoint(run.checkpoints).manifest.files.values()
    assert {len(each.places) for file in files for each in file.slices.values()} == {3}
    with pytest.raises(InputError, match="has no averaged weights: its stage had ema_decay 0"):
        export_in(tmp_path / "export", run, averaged=True)
    assert not (tmp_path / "export").exists()


def export_in(out: Path, run: StageRun, averaged: bool) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(PAST_RUN / "tokenizer")
    checkpoint = finished_checkpoint(run.checkpoints)
    export_model(run.initial_model, checkpoint, CODEBOOK, run.model_options, tokenizer, out, averaged=averaged)
