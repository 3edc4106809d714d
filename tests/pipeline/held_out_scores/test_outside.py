"""With weights, each drawn row has one picture in the FID, and each prompt of a language its own in the CLIP score."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.data.rows import Row
from pipeline.evaluation.outside_scores import OutsideWeights
from pipeline.held_out_scores import evaluate

CHOSEN = [
    (Row(f"0/{number}", np.full(4, number, np.uint16), None, []), f"text {number}", "zh" if number % 2 else "en")
    for number in range(5)
]
RESULTS = [{"drawn_codes": np.full(4, 100 + number)} for number in range(5)]


class Decoder:
    """Decodes a picture's codes to pixels of the first code's value."""

    def decode_all(self, codes: np.ndarray) -> np.ndarray:
        return np.broadcast_to(codes[:, :1, None, None], (len(codes), 2, 2, 3)).astype(np.uint8)


def test_pictures_and_prompts_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def truth(paths: object, ids: list[str], size_px: int) -> dict[str, np.ndarray]:
        return {one: np.zeros((size_px, size_px, 3), np.uint8) for one in ids}

    def fid(weights: str, real: np.ndarray, drawn: np.ndarray) -> float:
        asked["fid"] = (real.shape, drawn.shape)
        return 7.0

    def clip(weights: str, pictures: np.ndarray, texts: list[str]) -> float:
        asked[texts[0]] = (pictures[:, 0, 0, 0].tolist(), texts)
        return float(len(texts))

    for name, stand_in in (("true_pictures", truth), ("fid", fid), ("clip_score", clip)):
        monkeypatch.setattr(evaluate, name, stand_in)
    fingerprint: Any = SimpleNamespace(transform={"size_px": 2})
    paths: Any = SimpleNamespace(samples=Path())
    vqgan: Any = Decoder()

    def scored(outside: OutsideWeights) -> dict[str, float]:
        return evaluate.scores_with_weights(paths, fingerprint, CHOSEN, RESULTS, vqgan, outside)

    scores = scored(OutsideWeights("fid", "clip"))
    assert scores == {"fid": 7.0, "fid_pictures": 5, "clip_score_en": 3.0, "clip_score_zh": 2.0}
    assert asked["fid"] == ((5, 2, 2, 3), (5, 2, 2, 3))
    assert asked["text 0"] == ([100, 102, 104], ["text 0", "text 2", "text 4"])
    assert asked["text 1"] == ([101, 103], ["text 1", "text 3"])
    assert scored(OutsideWeights()) == {}
