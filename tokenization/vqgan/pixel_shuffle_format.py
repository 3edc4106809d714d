"""The format of this project's own VQ-GANs: a folder with the sizes in config.json, and the tensors."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenization.config.pixel_shuffle import PixelShuffleSizes
from tokenization.errors import InputError
from tokenization.vqgan.config_values import PIXEL_SHUFFLE_RULES, check_by_rules
from tokenization.vqgan.fitting import fitted_state
from tokenization.vqgan.pixel_shuffle_network import CLASS_NAME, WEIGHTS_FILE, PixelShuffleNetwork
from tokenization.vqgan.vqgan_format import LoadedModel, VqganFiles, VqganFormat
from tokenization.vqgan.weight_files import read_json


def load_pixel_shuffle(files: VqganFiles, tensors: dict[str, Tensor]) -> LoadedModel:
    """Loads a folder of `PixelShuffleNetwork.save_pretrained`. Pixels are from -1 to 1."""
    sizes = sizes_of(files.weights.parent / "config.json")
    with torch.device("meta"):
        model = PixelShuffleNetwork(sizes)
    model.load_state_dict(fitted_state(model, tensors, str(files.weights)), assign=True)
    return LoadedModel(model, sizes.factor)


def check_pixel_shuffle(files: VqganFiles) -> None:
    """Raises InputError if config.json has no sizes of such a network."""
    sizes_of(files.weights.parent / "config.json")


def sizes_of(config: Path) -> PixelShuffleSizes:
    """Reads the sizes out of a config.json.

    Raises:
        InputError: a value is missing, of another type, or out of range.
    """
    content = read_json(config)
    values: dict[str, Any] = {name: content.get(name) for name in PIXEL_SHUFFLE_RULES}
    check_by_rules(values, PIXEL_SHUFFLE_RULES, config)
    levels: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in values.items()}
    sizes = PixelShuffleSizes(**levels)
    if problem := sizes.problem():
        raise InputError(f"{str(config)!r} has sizes that do not fit each other: {problem}")
    return sizes


PIXEL_SHUFFLE = VqganFormat(load_pixel_shuffle, CLASS_NAME, (WEIGHTS_FILE,), check=check_pixel_shuffle)
