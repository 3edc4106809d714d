"""Combines a folder that holds the visual expert alone with its language expert."""

import math

from torch import Tensor

from pipeline.architecture.mars_config import MarsConfig
from pipeline.errors import InputError
from pipeline.weights.hub import model_folder
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.weights.tensor_files import open_tensor_folder


def with_language_expert(location: str, config: MarsConfig) -> dict[str, Tensor]:
    """Returns the whole model's tensors, on the CPU.

    Args:
        location: folder or hub name of the visual expert.
        config: the visual expert's config, which has the language expert's name and hash.

    Raises:
        InputError: the language expert is not available, or is not the one that the visual expert was trained with.
    """
    tensors = open_tensor_folder(model_folder(location))
    state: dict[str, Tensor] = {}
    for file in tensors.files:
        opened = tensors.open(file)
        for name, shape in opened.shapes.items():
            state[name] = opened.read(name, 0, math.prod(shape)).view(shape)
    expert = open_language_expert(model_folder(config.language_expert_source))
    if (found := expert.base_sha256()) != config.language_expert_sha256:
        raise InputError(
            f"{location!r} belongs to another language expert than {config.language_expert_source!r} (its hash is "
            f"{config.language_expert_sha256[:12]}, not {found[:12]}); pass the right one as language_expert_source"
        )
    return state | dict(expert.read())
