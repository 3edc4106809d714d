"""Settings of a VQ-GAN that cannot be are named before anything starts."""

from dataclasses import replace

import pytest

from tokenization.config.vqgan import PIXEL_SHUFFLE


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_0_to_1(share: float) -> None:
    assert not PIXEL_SHUFFLE.problems() and not replace(PIXEL_SHUFFLE, synthetic_share=1.0).problems()
    (problem,) = replace(PIXEL_SHUFFLE, synthetic_share=share).problems()
    assert problem == f"synthetic_share is {share:g}, but must be from 0 to 1"
