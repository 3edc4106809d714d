"""With weights, pictures are scored in parts by Ray tasks; the same command after a kill scores what is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation import score_parts
from pipeline.evaluation.outside_scores import OutsideWeights, fid_of_features
from pipeline.evaluation.score_parts import DrawnPicture, outside_scores

PICTURES = [
    DrawnPicture(f"0/{number // 2}", f"text {number}", "zh" if number % 2 else "en", np.full(4, 10 * number))
    for number in range(7)
]
"""Each sample has two prompts, as in the demo, and its own picture counts once."""


class Decoder:
    """Decodes a picture's codes to pixels of the first code's value."""

    def decode_all(self, codes: np.ndarray) -> np.ndarray:
        return np.broadcast_to(codes[:, :1, None, None], (len(codes), 2, 2, 3)).astype(np.uint8)


@dataclass(eq=False)
class Made:
    value: Any


class Tasks:
    """Stands for Ray: tasks run at once, and are counted. One may be the last before a kill."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.killed_after = 0, 99
        stand_in = SimpleNamespace(wait=self.wait, get=lambda made: made.value)
        monkeypatch.setattr(score_parts, "ray", stand_in)

    def __call__(self, function: Callable[..., Any]) -> Any:
        return SimpleNamespace(remote=lambda *words: Made(lambda: function(*words)))

    def wait(self, waiting: Sequence[Made], num_returns: int) -> tuple[list[Made], list[Made]]:
        if self.run == self.killed_after:
            raise KeyboardInterrupt
        self.run += 1
        first, *rest = waiting
        first.value = first.value()
        return [first], rest


@pytest.fixture
def weights(tmp_path: Path) -> OutsideWeights:
    (tmp_path / "inception.pt").write_text("weights")
    (tmp_path / "clip").mkdir()
    return OutsideWeights(str(tmp_path / "inception.pt"), str(tmp_path / "clip"))


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    def truth(paths: object, ids: list[str], size_px: int) -> dict[str, np.ndarray]:
        return {one: np.full((size_px, size_px, 3), 3 * int(one[2:]), np.uint8) for one in ids}

    def features(weights: str, pictures: np.ndarray, device: str) -> np.ndarray:
        first = pictures[:, 0, 0, 0].astype(np.float32)
        return np.stack([first, first % 7], axis=1)

    def clip(weights: str, pictures: np.ndarray, prompts: list[str], device: str) -> tuple[float, int]:
        of_pictures = [int(prompt.split()[1]) * 10 for prompt in prompts]
        assert pictures[:, 0, 0, 0].tolist() == of_pictures, "each picture has its own prompt"
        return float(sum(of_pictures)), len(prompts)

    for name, stand_in in (("true_pictures", truth), ("features_of", features), ("clip_score", clip)):
        monkeypatch.setattr(score_parts, name, stand_in)
    monkeypatch.setattr(score_parts, "vqgan_of_tokens", lambda paths: Decoder())
    monkeypatch.setattr(score_parts, "PART", 3)
    return Tasks(monkeypatch)


def scores(tmp_path: Path, weights: OutsideWeights, tasks: Tasks) -> dict[str, float]:
    paths: Any = SimpleNamespace(samples=tmp_path / "samples", vqgan=tmp_path / "vq")
    return outside_scores(paths, PICTURES, weights, 2, tasks)


def test_parts_add_up_to_the_scores_of_all(tmp_path: Path, weights: OutsideWeights, tasks: Tasks) -> None:
    found = scores(tmp_path, weights, tasks)
    drawn, real = np.arange(7) * 10.0, np.arange(4) * 3.0
    expected = fid_of_features(*(np.stack([one, one % 7], axis=1).astype(np.float32) for one in (real, drawn)))
    assert found["fid"] == pytest.approx(expected) and found["fid_pictures"] == 7
    assert found["clip_score_en"] == 30 and found["clip_score_zh"] == 30
    assert tasks.run == 3
    assert scores(tmp_path, OutsideWeights(clip=weights.clip), tasks).keys() == {"clip_score_en", "clip_score_zh"}
    assert scores(tmp_path, OutsideWeights(), tasks) == {}


def test_after_a_kill_only_missing_parts_are_scored_unless_the_weights_have_changed(
    tmp_path: Path, weights: OutsideWeights, tasks: Tasks
) -> None:
    tasks.killed_after = 2
    with pytest.raises(KeyboardInterrupt):
        scores(tmp_path, weights, tasks)
    tasks.run, tasks.killed_after = 0, 99
    resumed = scores(tmp_path, weights, tasks)
    assert tasks.run == 1
    Path(weights.fid).write_text("other weights")
    assert scores(tmp_path, weights, tasks) == resumed and tasks.run == 1 + 3
