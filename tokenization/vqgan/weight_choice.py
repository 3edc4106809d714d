"""Which tensors of a checkpoint are the VQ-GAN: behind wrappers, beside a discriminator, inside of a larger model, or
the moving averages (EMA) of the weights.
"""

from typing import Any

from torch import Tensor

from tokenization.errors import InputError
from tokenization.files.tensor_names import prefixes_of, unwrapped

EMA_KEYS = ("ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema_model")
"""Keys of moving averages beside the weights: LlamaGen's, timm's, and others'."""
PLAIN_KEYS = ("state_dict", "model", "module", "generator")
STATE_KEYS = {"": ("state_dict", "ema", *PLAIN_KEYS[1:]), "ema": (*EMA_KEYS, *PLAIN_KEYS), "plain": PLAIN_KEYS}
"""Keys of the tensors in a training checkpoint, by choice, in the order in which they are looked for."""
EMA_PREFIXES = ("model_ema.", "ema_model.", "ema.", "module_ema.")
"""Beginnings of the names of moving averages. The first is latent diffusion's, whose names have no dots after it."""
AVERAGED_PARTS = ("encoder", "decoder", "quantize", "quant_conv", "post_quant_conv")
"""Parts of which MoVQGAN keeps the averages apart, as `ema_encoder.`, with names like latent diffusion's."""
LIT_EMA_CODEBOOK = "model_ema.quantizeembeddingweight"
"""The codebook's moving average in IBQ's checkpoints, and in those of latent diffusion's VQ-GANs that have one."""
FIRST_STAGE = "first_stage_model."
"""The VQ-GAN's name in a latent diffusion model, which may have another encoder."""
ANCHOR = "encoder.conv_in.weight"
"""A tensor of every VQ-GAN."""
NOT_WEIGHTS = (
    *("loss.", "quantize.codebook_used", "colorize", "n_averaged", "quantize.embedding.cluster_size"),
    *("quantize.embedding.embed_avg", "quantize.cluster_size", "quantize.embed_avg", "quantize.ema_", "discriminator."),
)
"""Beginnings of the names of tensors that training checkpoints hold in addition to the model's."""


def state_of(checkpoint: dict[str, Any], choice: str) -> dict[str, Any]:
    """The dict of tensors in a training checkpoint; the checkpoint itself if it is one."""
    return next((checkpoint[key] for key in STATE_KEYS[choice] if isinstance(checkpoint.get(key), dict)), checkpoint)


def has_averages(checkpoint: dict[str, Any]) -> bool:
    """True if a training checkpoint has moving averages under a key of their own."""
    return any(isinstance(checkpoint.get(key), dict) for key in EMA_KEYS)


def own_tensors(
    tensors: dict[str, Tensor], choice: str, are_averages: bool, takes_averages: bool, location: str
) -> dict[str, Tensor]:
    """The VQ-GAN's tensors under their own names.

    Args:
        tensors: those of a file.
        choice: one of `WEIGHTS`.
        are_averages: the tensors are the moving averages themselves.
        takes_averages: without a choice, take moving averages where there are any.
        location: the file, for messages.

    Raises:
        InputError: there are no moving averages, or several VQ-GANs.
    """
    names = [_of_whole(unwrapped(name)) for name in tensors]
    bare = dict(zip(names, tensors.values(), strict=True))
    if len(bare) < len(tensors):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"VQ-GAN {location!r} has tensor {twice!r} with and without wrappers; save the model once")
    averages = {name: value for name, value in bare.items() if name.startswith(EMA_PREFIXES)}
    plain = _without_prefix({name: value for name, value in bare.items() if name not in averages}, location)
    if takes_averages and averages and not choice:
        choice = "ema"
    if choice != "ema" or are_averages:
        if not plain and averages:
            raise InputError(f"VQ-GAN {location!r} has nothing but moving averages; set vqgan_weights=ema")
        return _weights(plain)
    if not averages:
        raise InputError(f"VQ-GAN {location!r} has no moving averages (EMA) of its weights; leave vqgan_weights out")
    named = {name.split(".", 1)[1]: value for name, value in averages.items()}
    if prefixes_of(named, ANCHOR):
        return _weights(_without_prefix(named, location))
    # Latent diffusion leaves the dots out of the names of averages. Its first stage has none: it is not trained.
    weights = _weights(plain)
    without = [name for name in weights if name.replace(".", "") not in named]
    if 0 < len(without) < len(weights):
        raise InputError(
            f"VQ-GAN {location!r} has a moving average (EMA) of other tensors, but none of {without[0]!r}; set "
            "vqgan_weights=plain, or fetch the whole file again"
        )
    return {name: named.get(name.replace(".", ""), value) for name, value in weights.items()}


def _of_whole(name: str) -> str:
    """The name that the average of a part's tensor would have among those of the whole model."""
    first, _, rest = name.partition(".")
    part = first.removeprefix("ema_")
    return f"model_ema.{part}{rest}" if first != part and part in AVERAGED_PARTS else name


def _without_prefix(tensors: dict[str, Tensor], location: str) -> dict[str, Tensor]:
    """The tensors of the one model among them, without what stands before all of its names."""
    prefixes = prefixes_of(tensors, ANCHOR)
    if not prefixes or not prefixes[0]:
        return tensors
    if inner := [prefix for prefix in prefixes if prefix.endswith(FIRST_STAGE)]:
        prefixes = inner[:1]
    if len(prefixes) > 1:
        raise InputError(f"VQ-GAN {location!r} has several encoders, {', '.join(prefixes)}; save one of them alone")
    (prefix,) = prefixes
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith(NOT_WEIGHTS)}
