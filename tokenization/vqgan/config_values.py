"""Checks the values of a VQ-GAN's config.json and image_tokenizer.json before a library sees them."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tokenization.config.vqgan import WEIGHTS
from tokenization.errors import InputError
from tokenization.files.library_errors import MOST_LETTERS, library_errors_explained
from tokenization.vqgan.network_config import ACTIVATIONS, SPATIAL_GROUPS, NetworkConfig

MAX_LEVELS = 12


def _number(most: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: type(value) is int and 1 <= value <= most, f"a whole number from 1 to {most:,}"


def _numbers(least: int, most: int) -> tuple[Callable[[Any], bool], str]:
    is_one: Callable[[Any], bool] = lambda one: type(one) is int and least <= one <= most  # noqa: E731
    return lambda value: _list_of(value, is_one), f"1 to {MAX_LEVELS} whole numbers from {least} to {most:,}"


def _blocks(kind: str) -> tuple[Callable[[Any], bool], str]:
    names = (f"{kind}EncoderBlock2D", f"Attn{kind}EncoderBlock2D") if kind == "Down" else ()
    names = names or (f"{kind}DecoderBlock2D", f"Attn{kind}DecoderBlock2D")
    return lambda value: _list_of(value, lambda one: one in names), f"a list of {' and '.join(names)}"


def _list_of(value: Any, is_one: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= MAX_LEVELS and all(map(is_one, value))


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "in_channels": (lambda value: type(value) is int and value == 3, "3"),
    "out_channels": (lambda value: type(value) is int and value == 3, "3"),
    "block_out_channels": _numbers(1, 65_536),
    "down_block_types": _blocks("Down"),
    "up_block_types": _blocks("Up"),
    "layers_per_block": _number(100),
    "latent_channels": _number(65_536),
    "vq_embed_dim": (lambda value: value is None or _number(65_536)[0](value), _number(65_536)[1]),
    "num_vq_embeddings": _number(10_000_000),
    "norm_num_groups": _number(65_536),
    "act_fn": (lambda value: value in tuple(ACTIVATIONS), " or ".join(ACTIVATIONS)),
    "mid_block_add_attention": (lambda value: isinstance(value, bool), "true or false"),
    "lookup_from_codebook": (lambda value: isinstance(value, bool), "true or false"),
    "norm_type": (lambda value: value in ("group", "spatial"), "group or spatial"),
}
"""By name, what a value of a diffusers `VQModel` must be. A name that is missing has diffusers' default."""

PIXEL_SHUFFLE_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "encoder_channels": _numbers(1, 65_536),
    "encoder_blocks": _numbers(0, 100),
    "decoder_channels": _numbers(1, 65_536),
    "decoder_blocks": _numbers(0, 100),
    "latent_channels": _number(65_536),
    "codebook_size": _number(10_000_000),
}
"""By name, what a value of a `PixelShuffleNetwork`'s config must be. None may be missing."""


def check_model_values(values: Mapping[str, Any], path: Path) -> None:
    """Checks the config of a diffusers `VQModel`.

    Raises:
        InputError: a value has another type, or can be no model's.
    """
    check_by_rules({name: values[name] for name in RULES if name in values}, RULES, path)
    levels = ("block_out_channels", "down_block_types", "up_block_types")
    lengths = {len(values[name]) for name in levels if name in values}
    if len(lengths) > 1:
        raise InputError(f"{str(path)!r} has block_out_channels and block types of different lengths; fetch it again")
    groups = {"norm_num_groups": values.get("norm_num_groups", 1)}
    if values.get("norm_type") == "spatial":
        groups["the number of groups of a spatial norm,"] = SPATIAL_GROUPS
        latents = values.get("latent_channels", NetworkConfig.latent_channels)
        if (rows := values.get("vq_embed_dim")) not in (None, latents):
            rule = "a model of norm_type 'spatial' has as many of both"
            raise InputError(f"{str(path)!r} has latent_channels {latents} and vq_embed_dim {rows}; {rule}")
    for name, count in groups.items():
        if odd := next((width for width in values.get("block_out_channels", ()) if width % count), 0):
            raise InputError(f"{str(path)!r} has a level of {odd} channels, which {name} {count} does not divide")


def check_by_rules(
    values: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[Any], bool], str]], path: Path
) -> None:
    """Raises InputError if a value of a config is not what the rule of its name asks for."""
    for name, value in values.items():
        is_right, rule = rules[name]
        if not is_right(value):
            raise InputError(f"{str(path)!r} has {name} {_shown(value)}; {rule} is expected")


def check_settings(values: Mapping[str, Any], path: Path, formats: tuple[str, ...]) -> None:
    """Checks an image_tokenizer.json.

    Args:
        values: its content.
        path: the file, for messages.
        formats: the formats that it may name; none if a config.json decides the format.

    Raises:
        InputError: it has a name that is unknown, a format or a pixel range that is none, or an unknown choice of
            weights.
    """
    if unknown := sorted(values.keys() - {"format", "pixel_range", "weights"}):
        raise InputError(f"{str(path)!r} has {_shown(unknown[0])}; it may have format, pixel_range and weights")
    if "format" in values and values["format"] not in formats:
        rule = f"one of {', '.join(formats)} is expected" if formats else "config.json decides it: leave it out"
        raise InputError(f"{str(path)!r} has format {_shown(values['format'])}; {rule}")
    if "pixel_range" in values:
        given = values["pixel_range"]
        numbers = [one for one in given if type(one) in (int, float)] if isinstance(given, list) else []
        if len(numbers) != 2 or len(given) != 2 or not _is_range(*map(float, numbers)):
            rule = "two numbers, black's and white's, are expected"
            raise InputError(f"{str(path)!r} has pixel_range {_shown(given)}; {rule}")
    choice = values.get("weights", "")
    if not isinstance(choice, str) or choice not in WEIGHTS:
        known = ", ".join(f"{each!r}" for each in WEIGHTS if each)
        raise InputError(f"{str(path)!r} has weights {_shown(choice)}; set weights to one of {known}, or leave it out")


def explained(location: Path) -> AbstractContextManager[None]:
    """Turns whatever the libraries raise over a config and its tensors into an InputError of one line."""
    return library_errors_explained(
        f"no model can be made of VQ-GAN {str(location)!r}", "fetch the weights and their config.json again"
    )


def _is_range(low: float, high: float) -> bool:
    return math.isfinite(low) and math.isfinite(high) and 1e-3 <= high - low <= 1e6


def _shown(value: Any) -> str:
    return repr(value)[:MOST_LETTERS]
