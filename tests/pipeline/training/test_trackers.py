"""Figures and pictures of training are where their users look for them, by each library's own reader."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.common.recipes import load_recipe
from pipeline.config.recipe import TRACKERS
from pipeline.config.stage import StageConfig
from pipeline.errors import InputError, UsageError
from pipeline.training import trackers as trackers_module
from pipeline.training.trackers import Trackers, check_trackers

NAMES = ("loss/text_to_image", "validation/captioning/en/bits_a_caption_byte")


def of_stage(names: tuple[str, ...], output: Path) -> Any:
    return SimpleNamespace(stage=StageConfig("test", steps=3), output=output, name="demo/stage1", trackers=names)


def track(names: tuple[str, ...], output: Path, start_step: int = 0) -> None:
    trackers = Trackers(of_stage(names, output), start_step, print)
    for step in range(start_step + 1, 4):
        trackers.scalars(dict.fromkeys(NAMES, 1.0 / step), step)
    trackers.picture("samples", np.zeros((8, 8, 3), np.uint8), 3)
    trackers.close()


def test_tensorboard_has_every_step_once_and_the_picture_after_a_resume(tmp_path: Path) -> None:
    track((), tmp_path)
    track((), tmp_path, start_step=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in NAMES:
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3]
    assert events.Images("samples")[-1].step == 3
    assert Image.open(tmp_path / "samples" / "samples-00000003.png").size == (8, 8), "the report shows it"


@pytest.mark.slow
def test_mlflow_and_wandb_have_the_figures_and_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "ml").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "ml").as_uri())
    track(tuple(TRACKERS), tmp_path)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mars").experiment_id])
    for name in NAMES:
        assert [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)] == [
            (step, pytest.approx(1 / step)) for step in (1, 2, 3)
        ]
    assert {"stage.json", "images"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
    (kept,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(kept.glob("*.wandb")) and list((kept / "files" / "media").rglob("*.png"))


@pytest.mark.parametrize(("part", "title"), [("", "demo/stage1"), ("validation", "demo/stage1/validation")])
def test_each_stage_and_its_validation_are_runs_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, title: str
) -> None:
    """Under one name, Weights & Biases takes all of them for one run, and goes on with it."""
    titles: list[str] = []
    monkeypatch.setattr(trackers_module, "WeightsAndBiases", lambda _, name, settings: titles.append(name))
    monkeypatch.setattr(trackers_module, "MlFlow", lambda name, settings: titles.append(name))
    Trackers(of_stage(tuple(TRACKERS), tmp_path), 0, print, part)
    assert titles == [title, title]


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="trackers has 'excel', which is unknown; the trackers are wandb, mlflow"):
        load_recipe("demo", ("trackers=('excel',)",))
    monkeypatch.setitem(TRACKERS, "wandb", "no_such_package")
    with pytest.raises(InputError, match="'wandb' needs the package no_such_package: pip install"):
        check_trackers(("wandb",))


def test_a_tracker_that_fails_is_told_of_once_and_opened_again_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a full disk nor a service that is down may end a training."""
    told: list[str] = []
    seen: list[int] = []
    broken = [True]

    class Service:
        def scalars(self, figures: dict, step: int) -> None:
            if broken[0]:
                raise OSError(28, "No space left on device")
            seen.append(step)

        def close(self) -> None:
            pass

    monkeypatch.setattr(trackers_module, "WeightsAndBiases", lambda *_: Service())
    trackers = Trackers(of_stage(("wandb",), tmp_path), 0, told.append)
    for step in range(1, 40):
        broken[0] = step < 15
        trackers.scalars({"loss": 1.0}, step)
    trackers.close()
    assert len(told) == 1 and "wandb does not take figures any more" in told[0] and "No space left" in told[0]
    assert seen == list(range(21, 40)), "tried again every ten steps"
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 40))
