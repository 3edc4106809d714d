"""Where a stage's figures and pictures are shown: TensorBoard always, Weights & Biases or MLflow where asked for."""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from pipeline.errors import InputError

TRACKERS = {"wandb": "wandb", "mlflow": "mlflow"}
"""Names that a recipe may give, and the packages they need."""
PROJECT = "mars"


class Tracker(Protocol):
    """Something that shows figures over the steps."""

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Shows the figures of a step."""

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 [H, W, 3]."""

    def close(self) -> None:
        """Shows what is left."""


class TensorBoard:
    """Event files in a folder. Those of steps after `start_step` are forgotten: an attempt before wrote them."""

    def __init__(self, folder: Path, start_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1)

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Shows the figures of a step."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        self._writer.add_image(name, pixels_HW3, step, dataformats="HWC")

    def close(self) -> None:
        """Shows what is left."""
        self._writer.close()


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
        """Shows the figures of a step."""
        self._run.log(figures, step=step)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        self._run.log({name: self._wandb.Image(pixels_HW3)}, step=step)

    def close(self) -> None:
        """Shows what is left."""
        self._run.finish()


class MlFlow:
    """A run of the experiment `mars`; the server comes from MLFLOW_TRACKING_URI."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self._mlflow = importlib.import_module("mlflow")
        self._mlflow.set_experiment(PROJECT)
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_dict(settings, "stage.json")

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Shows the figures of a step."""
        self._mlflow.log_metrics(figures, step=step)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        self._mlflow.log_image(pixels_HW3, key=name.replace("/", "-"), step=step)

    def close(self) -> None:
        """Shows what is left."""
        self._mlflow.end_run()


class Trackers:
    """Several at once.

    Args:
        names: of `TRACKERS`, beside TensorBoard.
        output: the stage's folder.
        run_name: `recipe/stage`.
        settings: of the stage.
        start_step: steps done before.
    """

    def __init__(
        self, names: tuple[str, ...], output: Path, run_name: str, settings: dict[str, Any], start_step: int
    ) -> None:
        self._all: list[Tracker] = [TensorBoard(output / "tensorboard", start_step)]
        if "wandb" in names:
            self._all.append(WeightsAndBiases(output, run_name, settings))
        if "mlflow" in names:
            self._all.append(MlFlow(run_name, settings))

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Shows the figures of a step."""
        for tracker in self._all:
            tracker.scalars(figures, step)

    def picture(self, name: str, pixels_HW3: np.ndarray, step: int) -> None:
        """Shows a picture, uint8 [H, W, 3]."""
        for tracker in self._all:
            tracker.picture(name, pixels_HW3, step)

    def close(self) -> None:
        """Shows what is left."""
        for tracker in self._all:
            tracker.close()


def check_trackers(names: tuple[str, ...]) -> None:
    """Raises InputError where a tracker's package is not installed."""
    for name in names:
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise InputError(f"tracker {name!r} needs the package {TRACKERS[name]}: pip install {TRACKERS[name]}")
