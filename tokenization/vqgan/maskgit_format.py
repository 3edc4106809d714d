"""MaskGIT's VQ-GAN in open-muse's form: a folder of its `MaskGitVQGAN`, or a file of the tensors, as 1d-tokenizer's."""

import torch
from torch import Tensor

from tokenization.errors import InputError
from tokenization.vqgan.fitting import fitted_state
from tokenization.vqgan.maskgit_network import MaskgitNetwork, MaskgitSizes
from tokenization.vqgan.vqgan_format import UNIT, LoadedModel, VqganFiles, VqganFormat


def load_maskgit(files: VqganFiles, tensors: dict[str, Tensor]) -> LoadedModel:
    """Loads the tensors of open-muse's `MaskGitVQGAN`, with pixels from 0 to 1, as MaskGIT's own."""
    location = str(files.weights)
    sizes = sizes_of(tensors, location)
    with torch.device("meta"):
        model = MaskgitNetwork(sizes)
    model.load_state_dict(fitted_state(model, tensors, location), assign=True)
    return LoadedModel(model, 2 ** (len(sizes.widths) - 1), UNIT)


def sizes_of(tensors: dict[str, Tensor], location: str) -> MaskgitSizes:
    """The sizes of the network that has these tensors.

    Raises:
        InputError: a tensor that is needed to derive them is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise InputError(
                f"VQ-GAN {location!r}: tensor {name!r} is missing; the file is truncated or of another architecture"
            )
        return tuple(tensors[name].shape)

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})

    levels = range(max(1, count("encoder.down.")))
    widths = tuple(shape(f"encoder.down.{level}.block.0.conv2.weight")[0] for level in levels)
    num_codes, channels = shape("quantize.embedding.weight")
    return MaskgitSizes(widths, count("encoder.mid."), channels, num_codes)


OPEN_MUSE_MASKGIT = VqganFormat(load_maskgit, "MaskGitVQGAN")
MASKGIT_FILE = VqganFormat(load_maskgit, tensor_prefix="encoder.mid.0.")
