"""Figures and pictures of training are where their users look for them, by each library's own reader."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jobs.common.exit_codes import UsageError
from jobs.common.recipe import load_recipe
from pipeline.errors import InputError
from pipeline.trackers import TRACKERS, Trackers, check_trackers

NAMES = ("loss/text_to_image", "validation/captioning/en/bits_a_caption_byte")


def track(names, output, start_step=0):
    trackers = Trackers(names, output, "demo/stage1", {"steps": 3}, start_step)
    for step in range(start_step + 1, 4):
        trackers.scalars(dict.fromkeys(NAMES, 1.0 / step), step)
    trackers.picture("samples", np.zeros((8, 8, 3), np.uint8), 3)
    trackers.close()


def test_tensorboard_has_every_step_once_and_the_picture_after_a_resume(tmp_path):
    track((), tmp_path)
    track((), tmp_path, start_step=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in NAMES:
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3]
    assert events.Images("samples")[-1].step == 3


def test_mlflow_and_wandb_have_the_figures_and_the_picture(tmp_path, monkeypatch):
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


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="trackers has 'excel'; there are wandb, mlflow"):
        load_recipe("demo", ("trackers=('excel',)",))
    monkeypatch.setitem(TRACKERS, "wandb", "no_such_package")
    with pytest.raises(InputError, match="'wandb' needs the package no_such_package: pip install"):
        check_trackers(("wandb",))
