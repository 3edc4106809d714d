"""The retrieval score shows if a model memorised its drawings."""

import numpy as np
import pandas as pd
import pytest

from pipeline.config.recipe import CorpusConfig
from pipeline.demo.corpora import attribution_of
from pipeline.demo_scores.retrieval import retrieval
from tokenization.vqgan.image_tokenizer import ImageTokenizer


class FourColours(ImageTokenizer):
    """Decodes a code as a grey value, and remembers which it was asked for."""

    def __init__(self) -> None:
        self.decoded: list[int] = []

    def decode(self, codes_BN: np.ndarray) -> np.ndarray:
        self.decoded += codes_BN[:, 0].tolist()
        return np.repeat(codes_BN[:, :, None], 3, axis=2).astype(np.uint8)


def test_a_high_resolution_picture_counts_where_it_is_nearest_to_its_own_drawing() -> None:
    drawings = pd.DataFrame(
        {"sample_id": ["a", "a", "b", "c"], "high_codes": [[10] * 4, [10] * 4, [90] * 4, [200] * 4]}
    )
    made = [("a", "en", 12), ("b", "en", 60), ("c", "en", 100), ("a", "zh", 49), ("b", "zh", 90), ("c", "zh", 200)]
    columns = ["sample_id", "language", "high_codes"]
    pictures = pd.DataFrame([(name, language, [code] * 4) for name, language, code in made], columns=columns)
    vqgan = FourColours()
    scores = retrieval(vqgan, drawings, pictures, "high_codes", "high_res_retrieval")
    assert scores == {"high_res_retrieval_en": pytest.approx(2 / 3), "high_res_retrieval_zh": 1.0}
    assert sorted(vqgan.decoded) == [10, 12, 49, 60, 90, 100, 200], "what is alike costs one decoding"


def test_drawings_are_never_shown_without_their_licence_and_other_corpora_not_with_it() -> None:
    assert "CC BY-SA 4.0" in attribution_of(CorpusConfig())
    assert "CC BY-SA 4.0" in attribution_of(CorpusConfig(made="lists"))
    assert attribution_of(CorpusConfig(path="/data/pictures")) == ""
