"""VQ-GANs in the formats they are published in give the codes that their own projects' code gives."""

import argparse
import json
import shutil
import sys
import types
import typing
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import VQModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tests.support import vqgan_reference as reference
from tokenization.config.sources import SHIPPED
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.vqgan import VqganConfig
from tokenization.errors import InputError
from tokenization.job.checks import make_fingerprint
from tokenization.job.rows import Tools
from tokenization.vqgan.formats import SETTINGS_FILE, load_vqgan, save_vqgan
from tokenization.vqgan.image_tokenizer import ImageTokenizer, check_pixel_range, image_tokenizer_sha256
from tokenization.vqgan.model import build_vqmodel
from tokenization.vqgan.network import VqganNetwork


def pictures(side: int = 64) -> np.ndarray:
    """Smooth colours, uint8 [3, side, side, 3]."""
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return (255 * fine).byte().permute(0, 2, 3, 1).numpy()


def in_range(pixels: np.ndarray, low: float, high: float) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * (high - low) + low


def write_open_muse(folder: Path, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "VQGANModel", "_version": "0.0.1"}))
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def write_taming(folder: Path, weights: dict[str, Tensor]) -> Path:
    """As Lightning saves while it trains: discriminator, optimizer, a class of its own as a key, a numpy number as the
    best score, and settings as omegaconf keeps them."""
    folder.mkdir(parents=True)
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    vars(module)["ModelCheckpoint"] = callback
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", module.__name__]
    sys.modules |= dict.fromkeys(names[:2], types.ModuleType("parent")) | {module.__name__: module}
    loss = {"loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4), "loss.logvar": torch.zeros(())}
    best, settings = np.float32(0.25), defaultdict(dict, {"type": typing.Any, "ddconfig": {"ch": 128}})
    checkpoint = {"epoch": 3, "state_dict": weights | loss, "callbacks": {callback: {"best": best}}}
    checkpoint["hyper_parameters"] = settings
    checkpoint |= {"optimizer_states": [{"state": {}, "param_groups": []}], "pytorch-lightning_version": "1.0.8"}
    try:
        torch.save(checkpoint, folder / "last.ckpt")
    finally:
        for name in names:
            sys.modules.pop(name)
    return folder / "last.ckpt"


def write_llamagen(folder: Path, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    model = weights | {"quantize.codebook_used": torch.zeros(65536)}
    torch.save({"model": model, "steps": 9, "args": argparse.Namespace(vq_model="VQ-16")}, folder / "vq_ds16.pt")
    return folder / "vq_ds16.pt"


CASES = {
    "open-muse, no attention": ("open-muse", write_open_muse, dict(codebook_size=8192, embed_dim=24, attention=False)),
    "open-muse, attention": ("open-muse", write_open_muse, dict(codebook_size=1024, embed_dim=16)),
    "taming 1,024": ("taming", write_taming, dict(codebook_size=1024, embed_dim=24)),
    "taming 8,192": ("taming", write_taming, dict(codebook_size=8192, embed_dim=32, blocks=1)),
    "taming 16,384": ("taming", write_taming, dict(codebook_size=16384, embed_dim=24)),
    "LlamaGen VQ-16": ("llamagen", write_llamagen, dict(codebook_size=16384, embed_dim=8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind, write, geometry", CASES.values(), ids=CASES)
def test_codes_and_pictures_are_the_projects_own(
    tmp_path: Path, kind: str, write: Callable, geometry: dict[str, Any]
) -> None:
    weights = reference.random_weights(kind, **geometry)
    place = write(tmp_path / "vq", weights)
    vqgan = ImageTokenizer(place)
    assert (vqgan.codebook_size, vqgan.factor) == (geometry["codebook_size"], 16)
    low, high = vqgan.pixel_range
    assert (low, high) == ((0, 1) if kind == "open-muse" else (-1, 1))
    expected = reference.encode(weights, kind, in_range(pictures(), low, high)).numpy()
    codes = vqgan.encode(pictures())
    assert len(np.unique(expected)) > 20, "codes that are all alike would show nothing"
    np.testing.assert_array_equal(codes, expected)
    drawn = (reference.decode(weights, kind, torch.from_numpy(codes)) - low) / (high - low) * 255
    pixels = drawn.clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(vqgan.decode(codes) - pixels).max() <= 0.51
    # As an export has it, a diffusers folder, it is the same.
    save_vqgan(load_vqgan(place), tmp_path / "saved")
    saved = ImageTokenizer(tmp_path / "saved")
    assert saved.pixel_range == vqgan.pixel_range
    np.testing.assert_array_equal(saved.encode(pictures()), expected)


@pytest.mark.parametrize("amused", [False, True])
def test_a_diffusers_folder_gives_diffusers_own_codes_and_amuseds_pixels_run_from_0(
    tmp_path: Path, amused: bool
) -> None:
    torch.manual_seed(0)
    model = VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 64),
        latent_channels=8,
        vq_embed_dim=8,
        num_vq_embeddings=512,
        lookup_from_codebook=amused,
        mid_block_add_attention=not amused,
    )
    model.quantize.embedding.weight.data.normal_()
    folder = tmp_path / "amused" / "vqvae"
    model.save_pretrained(folder)
    vqgan = ImageTokenizer(folder.parent)
    assert vqgan.pixel_range == ((0, 1) if amused else (-1, 1)) and vqgan.factor == 2
    with torch.no_grad():
        latents = model.encode(in_range(pictures(16), *vqgan.pixel_range)).latents
        indices = model.quantize(latents)[2][2].view(3, -1)
    np.testing.assert_array_equal(vqgan.encode(pictures(16)), indices.numpy())


def test_a_movq_in_kandinskys_form_gives_diffusers_own_codes_and_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 64),
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=512,
        norm_type="spatial",
    )
    theirs.quantize.embedding.weight.data.normal_()
    theirs.save_pretrained(tmp_path / "kandinsky" / "movq")
    vqgan = ImageTokenizer(tmp_path / "kandinsky")
    assert vqgan.pixel_range == (-1, 1) and vqgan.factor == 2
    with torch.no_grad():
        latents = theirs.encode(in_range(pictures(16), -1, 1)).latents
        rows, _, (_, _, indices) = theirs.quantize(latents)
        drawn = theirs.decode(rows, force_not_quantize=True).sample
        assert torch.equal(vqgan._vqgan.decode(rows), drawn)
    np.testing.assert_array_equal(vqgan.encode(pictures(16)), indices.view(3, -1).numpy())
    save_vqgan(load_vqgan(tmp_path / "kandinsky"), tmp_path / "saved")
    np.testing.assert_array_equal(
        ImageTokenizer(tmp_path / "saved").decode(indices.view(3, -1).numpy()),
        vqgan.decode(indices.view(3, -1).numpy()),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_computes_what_diffusers_computes_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    """Tokens that were made by earlier code, which ran diffusers' own modules, stay valid."""
    torch.manual_seed(0)
    theirs = build_vqmodel(VqganConfig())
    for parameter in theirs.parameters():  # in part they begin as zeros
        parameter.data.normal_(std=0.1)
    theirs.save_pretrained(tmp_path)
    theirs, ours = theirs.to(dtype), load_vqgan(tmp_path).model.to(dtype)
    assert isinstance(ours, VqganNetwork)
    with torch.no_grad():
        latents = theirs.encoder(in_range(pictures(32), -1, 1).to(dtype))
        assert torch.equal(ours.encoder(in_range(pictures(32), -1, 1).to(dtype)), latents)
        assert torch.equal(ours.decoder(latents), theirs.decoder(latents))


def test_a_normalised_codebook_is_looked_up_by_angle_whatever_the_encoders_dtype(tmp_path: Path) -> None:
    """Rows that are rounded to bfloat16 are of different lengths, and the longer ones would win."""
    place = write_llamagen(tmp_path / "vq", reference.random_weights("llamagen", 512, 8))
    whole, half = ImageTokenizer(place), ImageTokenizer(place, dtype=torch.bfloat16)
    assert torch.equal(whole._lookup.weights_KD, half._lookup.weights_KD)
    lengths = half._lookup.weights_KD.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_an_open_muse_file_that_is_named_itself_is_read_as_in_its_folder(tmp_path: Path) -> None:
    """As a taming-transformers file its pixels would run from -1, and every code would be another one."""
    weights = reference.random_weights("open-muse", 64, 16)
    folder = write_open_muse(tmp_path / "muse", weights)
    by_folder, by_file = ImageTokenizer(folder), ImageTokenizer(folder / "pytorch_model.bin")
    assert by_file.pixel_range == by_folder.pixel_range == (0, 1)
    np.testing.assert_array_equal(by_file.encode(pictures()), by_folder.encode(pictures()))


def test_codebook_size_factor_and_pixel_range_go_into_the_fingerprint(tmp_path: Path) -> None:
    muse = write_open_muse(tmp_path / "muse", reference.random_weights("open-muse", 64, 16))
    words = Tokenizer(WordLevel({"<|endoftext|>": 0, "a": 1}, "a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "text")
    prints = {
        name: make_fingerprint(TokenizationConfig(size_px=64), Tools(place, str(tmp_path / "text"), tmp_path))
        for name, place in (("muse", muse), ("shipped", SHIPPED))
    }
    assert (prints["muse"].codebook_size, prints["muse"].factor, prints["muse"].pixel_range) == (64, 16, [0, 1])
    assert (prints["shipped"].codebook_size, prints["shipped"].pixel_range) == (8192, [-1, 1])
    before = image_tokenizer_sha256(muse)
    (muse / SETTINGS_FILE).write_text('{"pixel_range": [-1, 1]}')
    assert ImageTokenizer(muse).pixel_range == (-1, 1) and image_tokenizer_sha256(muse) != before


@pytest.mark.slow
def test_weights_that_were_plainly_trained_on_the_other_pixel_range_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED, tmp_path / "vq")
    check_pixel_range(SHIPPED, ImageTokenizer(SHIPPED))
    (tmp_path / "vq" / SETTINGS_FILE).write_text('{"pixel_range": [0, 1]}')
    vqgan = ImageTokenizer(tmp_path / "vq")
    with pytest.raises(InputError, match=r"and at 2\d\.\d dB from -1 to 1; put {\"pixel_range\": \[-1.0, 1.0\]} into"):
        check_pixel_range(tmp_path / "vq", vqgan)
    assert vqgan.pixel_range == (0, 1)


def changed(weights: dict[str, Tensor], drop: str = "", **more: Tensor) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name != drop} | more


REFUSED = {
    "missing": (dict(drop="decoder.up.2.block.1.norm2.bias"), "'decoder.up.2.block.1.norm2.bias' is missing"),
    "gumbel": (dict(drop="quantize.embedding.weight"), "'quantize.embedding.weight' is missing"),
    "unexpected": (
        {"decoder.mid.extra_mid_res_blocks.0.conv1.weight": torch.zeros(1)},
        "'decoder.mid.extra_mid_res_blocks.0.conv1.weight' is unexpected",
    ),
    "misshapen": (
        {"encoder.down.1.block.0.conv1.weight": torch.zeros(32, 31, 3, 3)},
        r"'encoder.down.1.block.0.conv1.weight' has shape \(32, 31, 3, 3\), but the other tensors require "
        r"\(32, 32, 3, 3\)",
    ),
    "another decoder": ({"decoder.up.0.block.2.conv2.weight": torch.zeros(64, 64, 3, 3)}, "a decoder of widths"),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED)
def test_a_wrong_or_partial_vqgan_is_refused_by_the_name_of_the_tensor(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    weights = reference.random_weights("taming", 16, 8)
    with pytest.raises(InputError, match=message):
        load_vqgan(write_taming(tmp_path / "vq", changed(weights, **change)))


def test_a_diffusers_folder_with_a_missing_tensor_or_no_weights_is_refused(tmp_path: Path) -> None:
    build_vqmodel(VqganConfig(codebook_size=16)).save_pretrained(tmp_path / "vq")
    path = tmp_path / "vq" / "diffusion_pytorch_model.safetensors"
    save_file(changed(load_file(path), drop="encoder.mid_block.resnets.0.conv1.bias"), path)
    with pytest.raises(InputError, match="'encoder.mid_block.resnets.0.conv1.bias' is missing"):
        load_vqgan(tmp_path / "vq")
    path.unlink()
    for place in (tmp_path / "vq", tmp_path / "none", "openMUSE/vqgan-f16-8192-laion"):
        with pytest.raises(InputError, match="(is no saved VQModel|does not exist).*hf download"):
            load_vqgan(place)


def test_what_would_have_to_run_to_be_read_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"encoder.conv_in.weight": torch.zeros(1)}, "hook": print}, tmp_path / "sly.ckpt")
    with pytest.raises(InputError, match="holds more than tensors.*builtins.print"):
        load_vqgan(tmp_path / "sly.ckpt")
