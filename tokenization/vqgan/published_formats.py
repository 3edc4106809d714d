"""The formats of published VQ-GANs that are loaded as the network of a diffusers `VQModel`.

A diffusers `VQModel` folder (aMUSEd's and MoVQ, too), a folder of open-muse's `VQGANModel`, a taming-transformers
checkpoint with either of its codebooks, LlamaGen's, MoVQGAN's, and IBQ's. All but the first are the same architecture
under other names, so their tensors are renamed. Widths, codebook and attention are read from the tensors themselves. No
config and no code of these projects is needed.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenization.errors import InputError
from tokenization.vqgan.config_values import check_model_values
from tokenization.vqgan.fitting import fitted_state, fitting_tensor
from tokenization.vqgan.lookup import Lookup
from tokenization.vqgan.names import GUMBEL, LLAMAGEN, TAMING, Names, geometry_of
from tokenization.vqgan.network import VqganNetwork
from tokenization.vqgan.vqgan_format import SYMMETRIC, UNIT, LoadedModel, VqganFiles, VqganFormat
from tokenization.vqgan.weight_files import read_json

DIFFUSERS_FILES = tuple(
    f"diffusion_pytorch_model{variant}.{ending}"
    for variant in ("", ".fp16", ".bf16")
    for ending in ("safetensors", "bin")
)
"""Names of weight files in a diffusers folder. Variants of half precision are taken where there is no other."""
OLD_ATTENTION_NAMES = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)
"""Attention's names before diffusers 0.15, and the current ones."""


def load_diffusers(files: VqganFiles, tensors: dict[str, Tensor]) -> LoadedModel:
    """Loads a diffusers folder. aMUSEd's, which is open-muse's model, has pixels from 0 to 1."""
    config = read_json(files.weights.parent / "config.json")
    model = _empty(config)
    current = {_current_name(name): value for name, value in tensors.items()}
    if len(current) < len(tensors):
        raise InputError(f"VQ-GAN {str(files.weights)!r} has an attention under old and new names; save the model once")
    model.load_state_dict(fitted_state(model, current, str(files.weights)), assign=True)
    return LoadedModel(model, _factor(model), UNIT if model.config.lookup_from_codebook else SYMMETRIC)


def check_diffusers(files: VqganFiles) -> None:
    """Raises InputError if the config.json can be no `VQModel`'s."""
    path = files.weights.parent / "config.json"
    check_model_values(read_json(path), path)


def load_open_muse(files: VqganFiles, tensors: dict[str, Tensor]) -> LoadedModel:
    """Loads a folder of open-muse's `VQGANModel`, with pixels from 0 to 1, as from torchvision's ToTensor."""
    config = geometry_of(tensors, TAMING, str(files.weights))
    if config["layers_per_block"] == 1 and "AttnDownEncoderBlock2D" in config["down_block_types"]:
        raise InputError(
            f"VQ-GAN {str(files.weights)!r} has one block a level and attention. open-muse's own code leaves that "
            "attention out, which is not supported; take another VQ-GAN"
        )
    return load_renamed(TAMING, UNIT, False, files, tensors)


def load_renamed(
    names: Names,
    pixel_range: tuple[float, float],
    is_normalised: bool,
    files: VqganFiles,
    tensors: dict[str, Tensor],
) -> LoadedModel:
    """Loads tensors of the `VQModel` architecture with another project's names.

    Args:
        names: the project's names.
        pixel_range: pixel range of the project's encoder input.
        is_normalised: True if the project normalises the codebook's rows before it searches for the nearest.
        files, tensors: see `VqganFormat`.
    """
    model = _empty(geometry_of(tensors, names, str(files.weights)))
    source = partial(names.source, num_levels=len(model.config.block_out_channels))
    model.load_state_dict(fitted_state(model, tensors, str(files.weights), source), assign=True)
    if is_normalised:
        model.quantize.embedding.weight.data = F.normalize(model.quantize.embedding.weight.data, dim=-1)
    return LoadedModel(model, _factor(model), pixel_range)


def load_movq(files: VqganFiles, tensors: dict[str, Tensor]) -> LoadedModel:
    """Loads a checkpoint of MoVQGAN: taming's encoder, and a decoder whose norms take the codebook's rows, too."""
    config = geometry_of(tensors, TAMING, str(files.weights))
    if (latents := config["latent_channels"]) != (rows := config["vq_embed_dim"]):
        raise InputError(
            f"VQ-GAN {str(files.weights)!r} has latents of {latents} channels and a codebook of {rows}; a MoVQ with as "
            "many of both is supported alone, as diffusers has it"
        )
    return load_renamed(TAMING, SYMMETRIC, False, files, tensors)


def load_ibq(files: VqganFiles, tensors: dict[str, Tensor]) -> LoadedModel:
    """Loads a checkpoint of IBQ (SEED-Voken): taming's network, and the code with the largest dot product."""
    loaded = load_renamed(TAMING, SYMMETRIC, False, files, tensors)
    return replace(loaded, lookup=Lookup.largest_product(loaded.model.quantize.embedding.weight))


def load_gumbel(files: VqganFiles, tensors: dict[str, Tensor]) -> LoadedModel:
    """Loads a taming-transformers checkpoint with a Gumbel-softmax codebook.

    A 1 x 1 convolution, not the codebook, gives a latent's logit for each code. taming draws the code from them; here
    it is the most likely one.
    """
    location, proj = str(files.weights), ("quantize.proj.weight", "quantize.proj.bias")
    others = {name: value for name, value in tensors.items() if name not in proj}
    loaded = load_renamed(GUMBEL, SYMMETRIC, False, files, others)
    num_codes, channels = loaded.model.quantize.embedding.weight.shape
    weights = fitting_tensor(tensors, proj[0], (num_codes, channels), location)
    return replace(loaded, lookup=Lookup(weights, fitting_tensor(tensors, proj[1], (num_codes,), location)))


DIFFUSERS = VqganFormat(load_diffusers, "VQModel", DIFFUSERS_FILES, check=check_diffusers)
OPEN_MUSE = VqganFormat(load_open_muse, "VQGANModel")
LLAMAGEN_FILE = VqganFormat(partial(load_renamed, LLAMAGEN, SYMMETRIC, True), tensor_prefix="encoder.conv_blocks.")
TAMING_FILE = VqganFormat(partial(load_renamed, TAMING, SYMMETRIC, False))
GUMBEL_FILE = VqganFormat(load_gumbel, tensor_prefix="quantize.proj.")
MOVQ_FILE = VqganFormat(load_movq, tensor_prefix="decoder.norm_out.conv_y.")
IBQ_FILE = VqganFormat(load_ibq, takes_averages=True)


def _empty(config: dict[str, Any]) -> VqganNetwork:
    with torch.device("meta"):
        return VqganNetwork(config)


def _factor(model: VqganNetwork) -> int:
    """Pixels per code along one side: every level but the last halves the picture."""
    return int(2 ** (len(model.config.block_out_channels) - 1))


def _current_name(name: str) -> str:
    """The name of a tensor in diffusers since 0.15."""
    if ".attentions." in name:
        for old, new in OLD_ATTENTION_NAMES:
            name = name.replace(old, new)
    return name
