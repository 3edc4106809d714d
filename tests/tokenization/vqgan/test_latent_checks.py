"""An encoder that cannot encode, or has too many codes, is refused; it never writes code 0 without a word."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from diffusers import VQModel

from pipeline.config.recipe import Recipe
from tests.support.small_run import small_vqgan
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.vqgan import MAX_CODES, VqganConfig
from tokenization.config.workers import Workers
from tokenization.errors import InputError
from tokenization.job.chunk import Chunk, sent
from tokenization.job.encoder import Encoder, check_encoder
from tokenization.job.rows import Tools
from tokenization.vqgan.image_tokenizer import ImageTokenizer, check_codebook
from tokenization.vqgan.model import build_vqgan

CONFIG = TokenizationConfig(size_px=32, encode_batch_size=2)
ON_CPU = Workers()


def saved(model: VQModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A VQ-GAN whose activations are beyond what 16 bits hold."""
    torch.manual_seed(0)
    model = small_vqgan(1.0)
    model.encoder.conv_in.weight.data *= 1e6
    return saved(model, tmp_path / "vq")


def tools(vqgan: Path) -> Tools:
    return Tools(vqgan, "", vqgan.parent / "cache")


def noise(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)


def from_config(dtype: str) -> TokenizationConfig:
    return TokenizationConfig(size_px=32, encode_batch_size=2, encoder_dtype=dtype, size_hr_px=64)


def test_an_encoder_that_overflows_in_its_dtype_is_refused_before_the_first_shard(overflowing: Path) -> None:
    check_encoder(from_config("float32"), tools(overflowing), ON_CPU)
    with pytest.raises(
        InputError, match=r"cannot encode a test picture of 32 px: .* not finite in float16; set another"
    ):
        check_encoder(from_config("float16"), tools(overflowing), ON_CPU)


def test_an_encoder_that_gives_one_latent_for_everything_is_refused(tmp_path: Path) -> None:
    model = small_vqgan(1.0)
    model.quant_conv.weight.data.zero_()
    folder = saved(model, tmp_path / "vq")
    with pytest.raises(InputError, match="gives the same latent everywhere in float32, whatever the picture"):
        check_encoder(CONFIG, tools(folder), ON_CPU)
    plain = np.full((2, 32, 32, 3), 200, np.uint8)
    assert ImageTokenizer(folder).encode(plain).shape == (2, 4), "of plain pictures it tells nothing"


def test_a_shard_whose_pictures_overflow_later_fails_with_that_reason(overflowing: Path) -> None:
    encoder = Encoder(from_config("float16"), overflowing, ON_CPU, [])
    chunk = Chunk("a.tar", 0, noise(), rows=[{"sample_id": "a", "captions": []}] * 2, last=True)
    result = encoder.encoded(pa.py_buffer(sent(chunk)))
    assert result.shard == "a.tar"
    assert "shard 'a.tar': the VQ-GAN's encoder gives latents that are not finite in float16" in result.error


def test_codes_are_those_of_before_the_checks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vqgan = ImageTokenizer(saved(small_vqgan(1.0), tmp_path / "vq"))
    with torch.no_grad():
        pixels = torch.from_numpy(noise()).permute(0, 3, 1, 2).float() / (255 / 2) - 1
        latents = vqgan._vqgan.encode(pixels).permute(0, 2, 3, 1).reshape(-1, 4)
        codebook = vqgan._lookup.weights_KD
        expected = (codebook.square().sum(1) - 2 * latents @ codebook.T).argmin(1).view(2, -1)
    np.testing.assert_array_equal(vqgan.encode(noise()), expected.numpy())


def test_more_codes_than_the_table_can_hold_are_refused(tmp_path: Path) -> None:
    """Code 65,536 would have been written as 0."""
    small = VqganConfig(block_out_channels=(8, 8), latent_channels=2, codebook_size=MAX_CODES + 1)
    folder = saved(build_vqgan(small), tmp_path / "vq")
    with pytest.raises(InputError, match="has 65,537 codes, and the token table holds at most 65,536; name another"):
        check_codebook(folder, ImageTokenizer(folder))
    problems = Recipe(name="x", vqgan=VqganConfig(codebook_size=MAX_CODES + 1)).problems()
    assert problems == ["vqgan.codebook_size is 65,537, but must be at most 65,536"]
