"""Checkpoints of other projects give the codes and pictures that the projects' own classes give.

`tests/support/authors_vqgan.py` says how these were kept.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.authors_vqgan import Kept, drawn_weights, pictures
from tokenization.errors import InputError
from tokenization.vqgan.formats import SETTINGS_FILE, load_vqgan, save_vqgan
from tokenization.vqgan.image_tokenizer import ImageTokenizer, check_codebook
from tokenization.vqgan.network import VqganNetwork


def write_ibq(folder: Path, weights: dict[str, Tensor]) -> Path:
    """As Lightning saves it, with the discriminator and what counts for its averages alone."""
    more = {"loss.discriminator.main.0.bias": torch.zeros(4), "model_ema.lossdiscriminatormain0bias": torch.zeros(4)}
    more |= {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(-1, dtype=torch.int32)}
    checkpoint = {"epoch": 3, "state_dict": weights | more, "pytorch-lightning_version": "2.2.0"}
    torch.save(checkpoint | {"callbacks": {"ModelCheckpoint{}": {"best": 0.5}}}, folder / "imagenet256.ckpt")
    (folder / SETTINGS_FILE).write_text('{"format": "ibq"}')
    return folder / "imagenet256.ckpt"


def write_gumbel(folder: Path, weights: dict[str, Tensor]) -> Path:
    loss = {"loss.discriminator.main.0.bias": torch.zeros(4)}
    torch.save({"epoch": 3, "state_dict": weights | loss, "callbacks": {}}, folder / "last.ckpt")
    return folder / "last.ckpt"


def write_movq(folder: Path, weights: dict[str, Tensor]) -> Path:
    counts = {"ema_encoder.decay": torch.tensor(0.999), "ema_encoder.num_updates": torch.tensor(-1, dtype=torch.int32)}
    torch.save(weights | counts, folder / "movqgan.ckpt")
    return folder / "movqgan.ckpt"


def write_maskgit(folder: Path, weights: dict[str, Tensor]) -> Path:
    """As 1d-tokenizer has it: the tensors alone."""
    torch.save(weights, folder / "maskgit-vqgan-imagenet-f16-256.bin")
    return folder / "maskgit-vqgan-imagenet-f16-256.bin"


def write_open_muse_maskgit(folder: Path, weights: dict[str, Tensor]) -> Path:
    (folder / "muse").mkdir()
    (folder / "muse" / "config.json").write_text('{"_class_name": "MaskGitVQGAN", "_version": "0.0.1"}')
    torch.save(weights, folder / "muse" / "pytorch_model.bin")
    return folder / "muse"


CASES: dict[str, tuple[Callable[[Path, dict[str, Tensor]], Path], int, int]] = {
    "gumbel": (write_gumbel, 512, 8),
    "ibq": (write_ibq, 512, 16),
    "maskgit": (write_maskgit, 512, 16),
    "maskgit, open-muse's folder": (write_open_muse_maskgit, 512, 16),
    "movq": (write_movq, 512, 16),
}
"""By the name of what was kept: the writer of a checkpoint, codes, and the factor."""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_codes_and_pictures_are_those_of_the_authors_class(tmp_path: Path, case: str) -> None:
    (write, codebook_size, factor), kept = CASES[case], Kept.of(case.split(",")[0])
    place = write(tmp_path, drawn_weights(kept.shapes))
    vqgan = ImageTokenizer(place)
    assert (vqgan.codebook_size, vqgan.factor) == (codebook_size, factor)
    assert vqgan.pixel_range == ((0, 1) if case.startswith("maskgit") else (-1, 1))
    assert len(np.unique(kept.codes)) > 10, "codes that are all alike would show nothing"
    np.testing.assert_array_equal(vqgan.encode(pictures()), kept.codes)
    differences = np.abs(vqgan.decode(kept.codes).astype(int) - kept.pixels)
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01, "pixels may be rounded otherwise"
    # As an export has it, it is the same.
    save_vqgan(load_vqgan(place), tmp_path / "saved")
    saved = ImageTokenizer(tmp_path / "saved")
    np.testing.assert_array_equal(saved.encode(pictures()), kept.codes)
    np.testing.assert_array_equal(saved.decode(kept.codes), vqgan.decode(kept.codes))


@pytest.fixture
def ibq(tmp_path: Path) -> Path:
    return write_ibq(tmp_path, drawn_weights(Kept.of("ibq").shapes))


def test_ibqs_averages_are_taken_as_its_own_code_does_and_the_weights_by_choice(ibq: Path) -> None:
    weights = drawn_weights(Kept.of("ibq").shapes)
    codes = {name: load_vqgan(f"{ibq}{name}").model.quantize.embedding.weight for name in ("", "#ema", "#plain")}
    for name in ("", "#ema"):
        assert torch.equal(codes[name], weights["model_ema.quantizeembeddingweight"])
    assert torch.equal(codes["#plain"], weights["quantize.embedding.weight"])


def test_movqs_averages_are_taken_by_choice_alone_as_its_own_code_does(tmp_path: Path) -> None:
    weights = drawn_weights(Kept.of("movq").shapes)
    place = write_movq(tmp_path, weights)
    for choice, prefix in (("", ""), ("#plain", ""), ("#ema", "ema_")):
        model = load_vqgan(f"{place}{choice}").model
        assert isinstance(model, VqganNetwork)
        name = "quantize.embedding.weight" if not prefix else "ema_quantize.embeddingweight"
        assert torch.equal(model.quantize.embedding.weight, weights[name])
        name = "decoder.conv_in.weight" if not prefix else "ema_decoder.conv_inweight"
        assert torch.equal(model.decoder.conv_in.weight, weights[name])


def test_a_movq_whose_latents_are_not_as_wide_as_its_codebook_is_refused(tmp_path: Path) -> None:
    weights = drawn_weights(Kept.of("movq").shapes)
    weights |= {"encoder.conv_out.weight": torch.zeros(8, 96, 3, 3), "encoder.conv_out.bias": torch.zeros(8)}
    weights |= {"quant_conv.weight": torch.zeros(4, 8, 1, 1), "post_quant_conv.weight": torch.zeros(8, 4, 1, 1)}
    weights |= {"post_quant_conv.bias": torch.zeros(8), "decoder.conv_in.weight": torch.zeros(96, 8, 3, 3)}
    with pytest.raises(InputError, match="has latents of 8 channels and a codebook of 4; a MoVQ with as many of both"):
        load_vqgan(write_movq(tmp_path, weights))


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_a_file_that_may_be_ibqs_is_refused_until_its_format_is_named(ibq: Path, wrapper: str) -> None:
    """Its tensors have the names of a taming VQ-GAN, whose codes are others."""
    torch.save({f"{wrapper}{name}": value for name, value in drawn_weights(Kept.of("ibq").shapes).items()}, ibq)
    (ibq.parent / SETTINGS_FILE).unlink()
    with pytest.raises(InputError, match=r'may be IBQ\'s.*put {"format": "ibq"} or {"format": "taming"} into'):
        load_vqgan(ibq)
    (ibq.parent / SETTINGS_FILE).write_text('{"format": "taming"}')
    vqgan = load_vqgan(ibq)
    assert vqgan.format == "taming" and vqgan.lookup is None


def test_a_format_that_is_unknown_or_decided_by_the_config_is_refused(ibq: Path) -> None:
    for given in ("IBQ", None, ["ibq"], "diffusers"):
        (ibq.parent / SETTINGS_FILE).write_text(json.dumps({"format": given}))
        with pytest.raises(InputError, match=r"has format .*; one of llamagen, .*ibq.* is expected"):
            load_vqgan(ibq)
    (ibq.parent / SETTINGS_FILE).write_text('{"format": "ibq"}')
    (ibq.parent / "config.json").write_text('{"_class_name": "VQGANModel"}')
    with pytest.raises(InputError, match="has format 'ibq'; config.json decides it: leave it out"):
        load_vqgan(ibq)


@pytest.mark.parametrize("named", ["movq", "llamagen", "gumbel"])
def test_a_format_whose_tensors_are_others_is_refused(ibq: Path, named: str) -> None:
    """Its codes would be looked up in another way, without a word."""
    (ibq.parent / SETTINGS_FILE).write_text(json.dumps({"format": named}))
    with pytest.raises(InputError, match=f"has the format '{named}', but its tensors are those of 'taming'"):
        load_vqgan(ibq)


def test_ibqs_format_is_refused_for_tensors_of_movq(tmp_path: Path) -> None:
    place = write_movq(tmp_path, drawn_weights(Kept.of("movq").shapes))
    (place.parent / SETTINGS_FILE).write_text('{"format": "ibq"}')
    with pytest.raises(InputError, match="has the format 'ibq', but its tensors are those of 'movq'"):
        load_vqgan(place)


def test_a_codebook_that_the_token_table_cannot_hold_is_refused(ibq: Path) -> None:
    """IBQ's largest has 262,144 codes."""
    weights = drawn_weights(Kept.of("ibq").shapes)
    averages = {"model_ema.quantizeembeddingweight": torch.zeros(2**16 + 1, 24)}
    write_ibq(ibq.parent, weights | {"quantize.embedding.weight": torch.zeros(2**16 + 1, 24)} | averages)
    with pytest.raises(InputError, match="has 65,537 codes, and the token table holds at most 65,536"):
        check_codebook(ibq, ImageTokenizer(ibq))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gumbel", "quantize.proj.bias"),
        ("gumbel", "quantize.embed.weight"),
        ("ibq", "decoder.mid.attn_1.k.weight"),
        ("maskgit", "decoder.up.3.upsample_conv.bias"),
        ("movq", "decoder.mid.attn_1.norm.conv_b.weight"),
    ],
)
def test_a_damaged_file_is_refused_by_the_name_of_the_tensor(tmp_path: Path, name: str, tensor: str) -> None:
    drawn, write = drawn_weights(Kept.of(name).shapes), CASES[name][0]
    weights = {one: value for one, value in drawn.items() if not one.startswith(("model_ema.", "ema_"))}
    missing = {one: value for one, value in weights.items() if one != tensor}
    for changed, message in (
        (missing, f"tensor '{tensor}' is missing; .* file"),
        (weights | {tensor: weights[tensor][:-1]}, "tensor '[^']*' has shape .*, but the other tensors require"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            load_vqgan(write(tmp_path, changed))
        assert "\n" not in str(refused.value)


def test_maskgits_own_checkpoint_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_imagenet256_checkpoint").write_bytes(b"\x81\xa6params\x83\xa7encoder")
    message = "it is a Flax checkpoint; take the model's weights for torch; "
    with pytest.raises(InputError, match=f"is no saved VQModel .* or MaskGIT; {message}"):
        load_vqgan(tmp_path / "tokenizer_imagenet256_checkpoint")


@pytest.mark.parametrize("name", ["autoencoder.jit", "autoencoder.pt"])
def test_cosmoss_modules_are_code_and_are_refused_as_such(tmp_path: Path, name: str) -> None:
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), str(tmp_path / name))
    message = "it is a TorchScript module, which is code; take the model's weights alone"
    with pytest.raises(InputError, match=message) as refused:
        load_vqgan(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_averages_of_some_tensors_alone_are_refused(tmp_path: Path) -> None:
    drawn = drawn_weights(Kept.of("ibq").shapes)
    del drawn["model_ema.quant_convbias"]
    with pytest.raises(InputError, match=r"of other tensors, but none of 'quant_conv\.bias'; set vqgan_weights=plain"):
        load_vqgan(write_ibq(tmp_path, drawn))
