"""Synthetic drawings: the same ones from the same seed, in the share that was asked for, and an error without resvg."""

import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch

from tokenization.errors import InputError
from tokenization.vqgan.data import with_synthetic
from tokenization.vqgan.synthetic import synthetic_pictures, synthetic_svg

BATCHES = 200


def black() -> Iterator[torch.Tensor]:
    while True:
        yield torch.zeros(1, 3, 16, 16, dtype=torch.uint8)


def are_synthetic(share: float, rank: int) -> list[bool]:
    batches = with_synthetic(black(), share, size_px=16, batch_size=1, rank=rank, seed=0)
    return [bool(batch.any()) for batch in islice(batches, BATCHES)]


def test_a_seed_gives_the_same_drawings_and_another_seed_others() -> None:
    first, again, other = (list(islice(synthetic_pictures(np.random.default_rng(s), 32), 3)) for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert all(picture.shape == (32, 32, 3) and picture.dtype == np.uint8 for picture in first)


def test_drawings_have_flat_and_graded_fills_strokes_and_every_kind_of_shape() -> None:
    generator = np.random.default_rng(0)
    drawn = "".join(synthetic_svg(generator) for _ in range(50))
    for part in (
        "<linearGradient",
        "<radialGradient",
        "<ellipse",
        "<rect",
        "<polygon",
        "<path",
        'fill="none"',
        "opacity",
    ):
        assert part in drawn, part


def test_drawings_differ_in_their_colours() -> None:
    pictures = islice(synthetic_pictures(np.random.default_rng(0), 32), 20)
    means = np.stack([picture[picture.min(2) < 250].mean(0) for picture in pictures])
    assert np.ptp(means, axis=0).min() > 100


def test_the_share_of_the_batches_is_synthetic_and_the_others_are_the_corpus() -> None:
    assert np.mean(are_synthetic(0.3, rank=0)) == pytest.approx(0.3, abs=0.1)
    assert are_synthetic(0.3, rank=0) == are_synthetic(0.3, rank=0) != are_synthetic(0.3, rank=1)


def test_without_the_package_that_renders_svg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(InputError, match=r"'resvg_py': pip install '.\[demo\]', or set vqgan.synthetic_share=0"):
        next(with_synthetic(black(), 0.5, size_px=16, batch_size=1, rank=0, seed=0))
