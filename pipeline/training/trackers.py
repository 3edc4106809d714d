"""Trackers of a stage's figures and pictures: TensorBoard and a folder of
pictures always, Weights & Biases and MLflow if configured."""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from pipeline.config.recipe import TRACKERS
from pipeline.errors import InputError
from pipeline.training.stage_run import StageRun
from tokenization.files.atomic_writing import write_png

PROJECT = "mars"
REOPEN_STEPS = 10
"""Steps before a failed tracker is tried again."""


class Tracker(Protocol):
    """A destination for figures and pictures over the steps."""

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Shows the figures of a step."""

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 [H, W, 3]."""

    def close(self) -> None:
        """Flushes and closes the tracker."""


class TensorBoard:
    """Event files in a folder. Events after `start_step` are dropped, because an earlier attempt wrote them."""

    def __init__(self, folder: Path, start_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1)

    def scalars(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        self._writer.add_image(name, pixels_HW3, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class PictureFolder:
    """Pictures as files, `NAME-STEP.png`, for the run's report."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Does nothing: the stage's folder has the figures already."""

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{name}-{step:08d}.png"
        write_png(file, Image.fromarray(pixels_HW3))

    def close(self) -> None:
        """Does nothing."""


class WeightsAndBiases:
    """A run of the project `mars`; mode, key and host come from W&B's own environment variables."""

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        self._wandb = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        run_id = name.replace("/", "-")
        self._run = self._wandb.init(
            project=PROJECT, name=name, id=run_id, dir=str(folder), config=settings, resume="allow"
        )

    def scalars(self, figures: dict[str, float], step: int) -> None:
        self._run.log(figures, step=step)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        self._run.log({name: self._wandb.Image(pixels_HW3)}, step=step)

    def close(self) -> None:
        self._run.finish()


class MlFlow:
    """A run of the experiment `mars`; the server comes from MLFLOW_TRACKING_URI."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment(PROJECT)
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_dict(settings, "stage.json")

    def scalars(self, figures: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(figures, step=step)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        self._mlflow.log_image(pixels_HW3, key=name.replace("/", "-"), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class Trackers:
    """All trackers of a stage. A tracker that fails, for example on a full disk, is logged and reopened later.

    Training continues without it.

    Args:
        run: the stage.
        start_step: number of steps that were already done.
        log: called with a line when a tracker fails.
        part: the part of the stage that is shown, as a run of its own beside the stage's; empty for the training.
    """

    def __init__(self, run: StageRun, start_step: int, log: Callable[[str], None], part: str = "") -> None:
        settings, self._log = asdict(run.stage), log
        title = f"{run.name}/{part}" if part else run.name
        self._makers: dict[str, Callable[[int], Tracker]] = {
            "TensorBoard": lambda step: TensorBoard(run.output / "tensorboard" / part, step),
            "the folder of samples": lambda _: PictureFolder(run.output / "samples"),
        }
        if "wandb" in run.trackers:
            self._makers["wandb"] = lambda _: WeightsAndBiases(run.output, title, settings)
        if "mlflow" in run.trackers:
            self._makers["mlflow"] = lambda _: MlFlow(title, settings)
        self._open: dict[str, Tracker] = {}
        self._failed_at: dict[str, int] = {}
        self._told: set[str] = set()
        for name in self._makers:
            self._safely(name, start_step, partial(self._reopen, name, start_step))

    def scalars(self, figures: dict[str, float], step: int) -> None:
        for name in [each for each, failed in self._failed_at.items() if step >= failed + REOPEN_STEPS]:
            self._safely(name, step, partial(self._reopen, name, step - 1))
        for name, tracker in list(self._open.items()):
            if self._safely(name, step, partial(tracker.scalars, figures, step)):
                self._told.discard(name)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        for each, tracker in list(self._open.items()):
            self._safely(each, step, partial(tracker.picture, name, pixels_HW3, step))

    def close(self) -> None:
        for name, tracker in list(self._open.items()):
            self._safely(name, 0, tracker.close)

    def _reopen(self, name: str, steps_shown: int) -> None:
        self._open[name] = self._makers[name](steps_shown)

    def _safely(self, name: str, step: int, call: Callable[[], object]) -> bool:
        try:
            call()
        except Exception as error:  # a service's library may raise anything, and days of training are worth more
            if name not in self._told:
                self._log(f"{name} does not take figures any more, and is tried again later: {error!r}")
                self._told.add(name)
            self._open.pop(name, None)
            self._failed_at[name] = step
            return False
        self._failed_at.pop(name, None)
        return True


def check_trackers(names: tuple[str, ...]) -> None:
    """Raises InputError if a tracker's package is not installed."""
    for name in names:
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise InputError(f"tracker {name!r} needs the package {TRACKERS[name]}: pip install {TRACKERS[name]}")
