"""Settings of a VQ-GAN that can be no model's are refused in one line, before a tensor is read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tokenization.config.vqgan import PIXEL_SHUFFLE, VqganConfig
from tokenization.errors import InputError
from tokenization.vqgan.config_values import PIXEL_SHUFFLE_RULES, RULES, explained
from tokenization.vqgan.formats import SETTINGS_FILE, load_vqgan
from tokenization.vqgan.model import build_vqgan, build_vqmodel

ODD: list[Any] = [None, "x", -1, 0, 1.5, [], {}, [1, "a"], 10**12, float("nan"), float("inf"), "32"]
NULLABLE = {"vq_embed_dim"}


@pytest.fixture
def vqgan(tmp_path: Path) -> Path:
    """The settings of a `VQModel`, with a file of weights that nothing may read."""
    build_vqmodel(VqganConfig(codebook_size=16)).save_config(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    return tmp_path


@pytest.fixture
def pixel_shuffle(tmp_path: Path) -> Path:
    """The settings of a `PixelShuffleNetwork`, with a file of weights that nothing may read."""
    build_vqgan(replace(PIXEL_SHUFFLE, codebook_size=16)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        load_vqgan(folder)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 700
    return str(refused.value)


@pytest.mark.parametrize("name", RULES)
def test_values_of_a_config_that_no_model_has_are_named(vqgan: Path, name: str) -> None:
    own = json.loads((vqgan / "config.json").read_text())
    for value in [odd for odd in ODD if not (odd is None and name in NULLABLE)]:
        (vqgan / "config.json").write_text(json.dumps(own | {name: value}))
        assert f"has {name} " in refusal(vqgan), value


@pytest.mark.parametrize("name", PIXEL_SHUFFLE_RULES)
def test_values_of_a_config_that_no_pixel_shuffle_network_has_are_named(pixel_shuffle: Path, name: str) -> None:
    own = json.loads((pixel_shuffle / "config.json").read_text())
    for value in ODD:
        (pixel_shuffle / "config.json").write_text(json.dumps(own | {name: value}))
        assert f"has {name} " in refusal(pixel_shuffle), value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [16, 32]}, "block types of different lengths"),
        ({"norm_type": "spatial", "vq_embed_dim": 5}, "has latent_channels 8 and vq_embed_dim 5; a model of norm_type"),
        ({"norm_type": "spatial"}, "has a level of 16 channels, which the number of groups of a spatial norm, 32 does"),
        ({"norm_num_groups": 5}, "has a level of 16 channels, which norm_num_groups 5 does not divide"),
        ({"block_out_channels": [10**12] * 5}, "has block_out_channels"),
        ({"layers_per_block": 10**9}, "has layers_per_block 1000000000; a whole number from 1 to 100"),
    ],
)
def test_values_that_do_not_fit_each_other_are_named(vqgan: Path, changes: dict[str, Any], message: str) -> None:
    own = json.loads((vqgan / "config.json").read_text())
    (vqgan / "config.json").write_text(json.dumps(own | changes))
    assert message in refusal(vqgan)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "", "{", "[" * 100_000])
def test_a_file_of_settings_that_is_no_object_is_named(vqgan: Path, text: str) -> None:
    for name in (SETTINGS_FILE, "config.json"):
        (vqgan / name).write_text(text)
        assert f"{name}'" in refusal(vqgan)


@pytest.mark.parametrize(
    "pixel_range",
    [
        *ODD,
        [0, 0],
        [1, 0],
        [0, float("nan")],
        ["0", "1"],
        [0, 1, 2],
        [[0], [1]],
        [-1, 1e300],
        [0, 1e-30],
        [False, True],
    ],
)
def test_a_pixel_range_that_is_none_is_named(vqgan: Path, pixel_range: Any) -> None:
    (vqgan / SETTINGS_FILE).write_text(json.dumps({"pixel_range": pixel_range}))
    assert "two numbers, black's and white's, are expected" in refusal(vqgan)


@pytest.mark.parametrize("weights", [each for each in ODD if each != ""])
def test_a_choice_of_weights_that_is_none_is_named(vqgan: Path, weights: Any) -> None:
    (vqgan / SETTINGS_FILE).write_text(json.dumps({"weights": weights}))
    assert "set weights to one of 'ema', 'plain'" in refusal(vqgan)


def test_a_misspelt_setting_is_named(vqgan: Path) -> None:
    (vqgan / SETTINGS_FILE).write_text('{"pixel_rnge": [0, 1]}')
    assert "has 'pixel_rnge'; it may have format, pixel_range and weights" in refusal(vqgan)


def test_a_tensor_with_and_without_wrappers_is_refused(tmp_path: Path) -> None:
    build_vqmodel(VqganConfig(codebook_size=16)).save_pretrained(tmp_path / "vq")
    tensors = load_file(next((tmp_path / "vq").glob("*.safetensors")))
    name = "quant_conv.bias"
    save_file(tensors | {f"module.{name}": tensors[name] + 1}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=f"has tensor '{name}' with and without wrappers; save the model once"):
        load_vqgan(tmp_path / "a.safetensors")


def test_whatever_the_libraries_raise_is_one_line() -> None:
    message = r"no model can be made of VQ-GAN .*: RuntimeError: two lines; fetch"
    with pytest.raises(InputError, match=message), explained(Path("a")):
        raise RuntimeError("two\nlines")
