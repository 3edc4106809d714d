"""VQ-GANs in the forms that checkpoints have: variants, wrappers, larger models, averages; or the cause is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.runs.paths import RunPaths
from tests.support import vqgan_reference as reference
from tokenization.config.vqgan import VqganConfig
from tokenization.errors import InputError
from tokenization.vqgan.formats import SETTINGS_FILE, find_vqgan, load_vqgan
from tokenization.vqgan.image_tokenizer import image_tokenizer_sha256
from tokenization.vqgan.model import build_vqmodel

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


def codebook_of(location: Path) -> Tensor:
    codes: Tensor = load_vqgan(location).model.quantize.embedding.weight.detach()
    return codes


@pytest.fixture(scope="module")
def vqmodel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small diffusers `VQModel`."""
    torch.manual_seed(0)
    config = VqganConfig(block_out_channels=(8, 8, 8, 8, 8), latent_channels=4, codebook_size=64)
    folder = tmp_path_factory.mktemp("vqmodel")
    build_vqmodel(config).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def saved(vqmodel: Path) -> dict[str, Tensor]:
    return load_file(vqmodel / WEIGHTS_FILE)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return reference.random_weights("taming", 16, 8)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", ".fp16", ".bf16"])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_diffusers_folder_has_its_weights_under_any_of_the_usual_names_or_they_are_named_themselves(
    tmp_path: Path, vqmodel: Path, saved: dict[str, Tensor], variant: str, ending: str
) -> None:
    shutil.copy(vqmodel / "config.json", tmp_path)
    file = tmp_path / f"diffusion_pytorch_model{variant}.{ending}"
    dtype = {"": torch.float32, ".fp16": torch.float16, ".bf16": torch.bfloat16}[variant]
    tensors = {name: value.to(dtype) for name, value in saved.items()}
    save_file(tensors, file) if ending == "safetensors" else torch.save(tensors, file)
    for location in (tmp_path, file):
        assert torch.equal(codebook_of(location), tensors["quantize.embedding.weight"].float())
    if variant:
        save_file(saved, tmp_path / WEIGHTS_FILE)
        assert find_vqgan(tmp_path).weights.name == WEIGHTS_FILE, "the whole precision, where both are there"


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "first_stage_model.", "model.", "module.vqgan."]
)
def test_names_behind_wrappers_or_inside_of_a_larger_model_are_found(
    tmp_path: Path, weights: dict[str, Tensor], prefix: str
) -> None:
    others = {"model.diffusion_model.out.2.weight": torch.zeros(2), "logvar": torch.zeros(3)}
    tensors = {f"{prefix}{name}": value for name, value in weights.items()}
    if prefix in ("first_stage_model.", "module.vqgan."):
        tensors |= others
    save_file(tensors, tmp_path / "a.safetensors")
    torch.save({"state_dict": tensors, "global_step": 3}, tmp_path / "a.ckpt")
    for name in ("a.safetensors", "a.ckpt"):
        assert torch.equal(codebook_of(tmp_path / name), weights["quantize.embedding.weight"])


def test_a_wrapper_in_the_middle_of_a_name_and_training_buffers_are_no_hindrance(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    tensors = {name.replace("encoder.", "encoder._orig_mod."): value for name, value in weights.items()}
    tensors |= {"quantize.embedding.cluster_size": torch.zeros(16), "n_averaged": torch.tensor(3)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert torch.equal(codebook_of(tmp_path / "a.safetensors"), weights["quantize.embedding.weight"])


def test_of_several_encoders_latent_diffusions_is_taken_and_else_none(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    other = {f"cond_stage_model.{name}": value + 1 for name, value in weights.items()}
    save_file(
        other | {f"first_stage_model.{name}": value for name, value in weights.items()}, tmp_path / "a.safetensors"
    )
    assert torch.equal(codebook_of(tmp_path / "a.safetensors"), weights["quantize.embedding.weight"])
    save_file(other | {f"teacher.{name}": value for name, value in weights.items()}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"has several encoders, teacher\., cond_stage_model\.; save one"):
        load_vqgan(tmp_path / "a.safetensors")


def averages_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + 0.5 for name, value in weights.items()}


def with_averages(form: str, weights: dict[str, Tensor]) -> dict[str, Any]:
    averages = averages_of(weights)
    match form:
        case "latent diffusion's":
            flat = {f"model_ema.{name.replace('.', '')}": value for name, value in averages.items()}
            return {"state_dict": weights | flat | {"model_ema.decay": torch.tensor(0.9999)}}
        case "LlamaGen's":
            return {"model": weights, "ema": averages, "steps": 3}
        case "timm's":
            return {"state_dict": weights, "state_dict_ema": averages}
        case _:
            return {"state_dict": weights | {f"ema_model.module.{name}": value for name, value in averages.items()}}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["latent diffusion's", "LlamaGen's", "timm's", "behind a prefix"])
def test_moving_averages_are_chosen_by_a_setting_that_is_part_of_the_fingerprint(
    tmp_path: Path, weights: dict[str, Tensor], form: str
) -> None:
    torch.save(with_averages(form, weights), tmp_path / "a.ckpt")
    plain, averaged = (each["quantize.embedding.weight"] for each in (weights, averages_of(weights)))
    usual = averaged if form == "LlamaGen's" else plain  # as its own code loads it
    named = {"format": "taming"} if form == "latent diffusion's" else {}  # IBQ's names are the same
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(named))
    hashes = {image_tokenizer_sha256(tmp_path / "a.ckpt")}
    assert torch.equal(codebook_of(tmp_path / "a.ckpt"), usual)
    for choice, expected in (("ema", averaged), ("plain", plain)):
        (tmp_path / SETTINGS_FILE).write_text(json.dumps(named | {"weights": choice}))
        assert torch.equal(codebook_of(tmp_path / "a.ckpt"), expected), choice
        hashes.add(image_tokenizer_sha256(tmp_path / "a.ckpt"))
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(named))
    for choice, expected in (("ema", averaged), ("plain", plain)):
        paths = RunPaths(tmp_path, Recipe("x", vqgan_folder=str(tmp_path / "a.ckpt"), vqgan_weights=choice))
        assert torch.equal(codebook_of(paths.vqgan), expected), choice
        hashes.add(image_tokenizer_sha256(paths.vqgan))
    assert len(hashes) == 5


@pytest.mark.slow
def test_averages_that_are_not_there_and_unknown_choices_are_refused(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    torch.save(weights, tmp_path / "a.ckpt")
    (tmp_path / SETTINGS_FILE).write_text('{"weights": "ema"}')
    with pytest.raises(InputError, match=r"has no moving averages \(EMA\) of its weights; leave vqgan_weights out"):
        load_vqgan(tmp_path / "a.ckpt")
    (tmp_path / SETTINGS_FILE).write_text('{"weights": "best"}')
    with pytest.raises(InputError, match="has weights 'best'; set weights to one of 'ema', 'plain'"):
        load_vqgan(tmp_path / "a.ckpt")
    problems = Recipe("x", vqgan_weights="best").problems()
    assert problems == ["vqgan_weights is 'best', but must be one of ema, plain, or empty"]
    (tmp_path / SETTINGS_FILE).unlink()
    torch.save({f"ema.{name}": value for name, value in weights.items()}, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="has nothing but moving averages; set vqgan_weights=ema"):
        load_vqgan(tmp_path / "a.ckpt")


def test_the_cause_is_named_where_a_file_is_no_vqgan(tmp_path: Path, vqmodel: Path, saved: dict[str, Tensor]) -> None:
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name, content, message in (
        ("a.safetensors", lfs, "it is a Git LFS pointer; fetch the file itself with git lfs pull"),
        ("a.ckpt", lfs, "it is a Git LFS pointer; fetch the file itself with git lfs pull"),
        ("a.ckpt", b"<html><title>Sign in</title></html>", "it is an HTML page"),
        ("a.pt", b"", "it is an empty file"),
        ("a.bin", b"GGUF\3\0\0\0", "it is a GGUF file"),
        ("a.safetensors", b"\x40\0\0\0\0\0\0\0{", "is no readable safetensors file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_vqgan(tmp_path / name)
    save_file(saved, tmp_path / "b.safetensors")
    with pytest.raises(
        InputError, match="has the tensors of a diffusers VQModel, but there is no config.json of one beside it"
    ):
        load_vqgan(tmp_path / "b.safetensors")
    (tmp_path / "config.json").write_bytes(lfs)
    with pytest.raises(InputError, match="config.json' is not readable: it is a Git LFS pointer"):
        load_vqgan(tmp_path / "b.safetensors")
    shutil.copy(vqmodel / "config.json", tmp_path)
    broken = saved["decoder.conv_in.bias"].clone()
    broken[0] = float("nan")
    save_file(saved | {"decoder.conv_in.bias": broken}, tmp_path / "b.safetensors")
    with pytest.raises(
        InputError, match="tensor 'decoder.conv_in.bias' has values that are not finite; fetch it again"
    ):
        load_vqgan(tmp_path / "b.safetensors")


def test_quantised_weights_and_adapters_are_refused_by_name(
    tmp_path: Path, vqmodel: Path, saved: dict[str, Tensor]
) -> None:
    """Whole numbers would be taken for weights without a word."""
    shutil.copy(vqmodel / "config.json", tmp_path)
    name, file = "decoder.conv_in.weight", tmp_path / "a.safetensors"
    for changed, message in (
        ({name: saved[name].to(torch.float8_e4m3fn)}, "'decoder.conv_in.weight' is of type float8_e4m3fn, weights"),
        (
            {name: saved[name].to(torch.int8)},
            "'decoder.conv_in.weight' is of type int8, weights are float64, float32",
        ),
        ({f"{name}.absmax": torch.zeros(3)}, "is a model quantised by bitsandbytes; take the one in bfloat16"),
        ({"unet.lora_up.weight": torch.zeros(2, 2)}, "is a LoRA adapter, not a whole model; merge it"),
    ):
        save_file(saved | changed, file)
        with pytest.raises(InputError, match=message):
            load_vqgan(file)


def test_what_a_folder_has_instead_of_a_vqgan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere' does not exist; name its folder"):
        find_vqgan(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(InputError, match="; its config.json is of the class 'AutoencoderKL'; "):
        find_vqgan(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="index.json lists several files of weights: save the model in one"):
        find_vqgan(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"GGUF\3\0\0\0")
    for location in (tmp_path, tmp_path / "a.gguf"):
        with pytest.raises(InputError, match="; it is a GGUF file, which holds weights for llama.cpp"):
            find_vqgan(location)
