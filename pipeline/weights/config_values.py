"""Checks the values of a language expert's config.json before any library sees them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from tokenization.files.library_errors import MOST_LETTERS, library_errors_explained

MOST: dict[str, int] = {
    "vocab_size": 10_000_000,
    "text_vocab_size": 10_000_000,
    "codebook_size": 1 << 16,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 1000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 10_000,
    "kv_channels": 10_000,
    "max_position_embeddings": 1_000_000_000,
    "seq_length": 1_000_000_000,
}
"""Whole numbers from 1 on, and the largest that is believed."""
POSITIVE = ("rms_norm_eps", "layer_norm_epsilon", "initializer_range", "rope_theta", "rotary_emb_base", "rotary_pct")
NULLABLE = ("head_dim", "num_key_value_heads")
ROTARY = ("default", "linear", "yarn", "llama3")
"""Kinds of rotary positions that depend on nothing but the position. Others depend on the length of the whole batch."""


def check_values(values: Mapping[str, Any], folder: Path) -> None:
    """Checks sizes and numbers.

    Raises:
        InputError: one has another type, or can be no model's.
    """
    for name, most in MOST.items():
        value = values.get(name, 1)
        if value is None and name in NULLABLE:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            _refuse(folder, f"{name} {value!r}", f"a whole number from 1 to {most:,} is expected")
    for name in POSITIVE:
        value = values.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            _refuse(folder, f"{name} {value!r}", "a number above 0 is expected")
    heads, hidden_size = values.get("num_attention_heads", 1), values.get("hidden_size", 0)
    if not values.get("head_dim") and hidden_size % (2 * heads):
        _refuse(
            folder, f"hidden_size {hidden_size} and num_attention_heads {heads}", "heads of an even size are expected"
        )
    if heads % (values.get("num_key_value_heads") or heads):
        shared = values["num_key_value_heads"]
        _refuse(folder, f"num_key_value_heads {shared}", f"a divisor of num_attention_heads {heads} is expected")


def check_rotary(rotary: Any, folder: Path) -> None:
    """Raises InputError if the positions are of a kind that MARS does not compute."""
    kind = rotary.get("rope_type", "default") if isinstance(rotary, dict) else None
    if kind not in ROTARY:
        _refuse(
            folder,
            f"rotary positions of kind {kind!r}",
            f"MARS computes {', '.join(ROTARY)}. Without rope_scaling the model is right up to its training length",
        )


def explained(folder: Path) -> AbstractContextManager[None]:
    """Turns whatever the libraries raise over a config into an InputError of one line."""
    return library_errors_explained(
        f"the config.json of {str(folder)!r} cannot be used", "fetch the config.json of these weights"
    )


def _refuse(folder: Path, found: str, rule: str) -> None:
    raise InputError(f"the config.json of {str(folder)!r} has {found[:MOST_LETTERS]}; {rule}")
