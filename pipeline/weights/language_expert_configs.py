"""Reads a language expert's config in any supported format, as the config of a Qwen2 or of a Qwen3."""

import json
from pathlib import Path
from typing import Any

from transformers import Qwen2Config, Qwen3Config

from pipeline.architecture.mars_config import ExpertConfig, MarsConfig
from pipeline.errors import InputError
from pipeline.weights.config_values import check_rotary, check_values, explained
from tokenization.files.content import content_of_file, content_of_model_folder, what_file_is

FORMATS = ("qwen2", "qwen3", "qwen", "mars")
"""Supported values of `model_type` in a folder's config.json."""
JSON = "a JSON text"


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a folder's config.json.

    Raises:
        InputError: there is none, or it is not of a language expert's format.
    """
    folder = folder_of(folder)
    path = folder / "config.json"
    if found := content_of_model_folder(folder):
        raise InputError(f"language expert {str(folder)!r} is {found}")
    if not path.is_file():
        raise InputError(
            f"language expert {str(folder)!r} has no config.json; run jobs/train_lm.py for the demo's, or name a "
            "folder of Qwen-7B, Qwen1.5, Qwen2, Qwen2.5 or Qwen3"
        )
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        kind = values.get("model_type")
    except (ValueError, AttributeError) as error:
        problem = what_file_is(path) if (known := content_of_file(path)) and known.name != JSON else f"{error}"
        raise InputError(f"{str(path)!r} is no readable config: {problem}; fetch it again") from error
    if not isinstance(kind, str) or kind not in FORMATS:
        raise InputError(
            f"language expert {str(folder)!r} is a {str(kind)[:100]!r} model; MARS is built on {', '.join(FORMATS[:3])}"
        )
    check_values(values, folder)
    return values


def folder_of(location: Path) -> Path:
    """The folder of a language expert, which may be named by its file of weights."""
    return location.parent if location.is_file() else location


def language_expert_config(folder: Path) -> ExpertConfig:
    """Reads the language expert's config as a Qwen2 or a Qwen3 config.

    Raises:
        InputError: see `open_language_expert`; the tensors are not checked.
    """
    values, folder = read_config(folder), folder_of(folder)
    with explained(folder):
        config = _config_of(values, folder)
    check_rotary(config.rope_parameters, folder)
    return config


def _config_of(values: dict[str, Any], folder: Path) -> ExpertConfig:
    if values["model_type"] == "mars":
        return MarsConfig.from_pretrained(folder).language_expert()
    if values["model_type"] == "qwen":
        return qwen2_config_of_qwen(values, folder)
    if values["model_type"] == "qwen3":
        config: ExpertConfig = Qwen3Config.from_pretrained(folder)
        if config.attention_bias:
            raise InputError(
                f"language expert {str(folder)!r} has attention_bias; only a Qwen3 without biases is supported"
            )
    else:
        config = Qwen2Config.from_pretrained(folder)
    if config.use_sliding_window:
        raise InputError(
            f"language expert {str(folder)!r} has use_sliding_window; MARS's attention sees all earlier positions. Set "
            "it to false in config.json if its window is longer than your samples"
        )
    return config


def qwen2_config_of_qwen(values: dict[str, Any], folder: Path) -> Qwen2Config:
    """Converts Qwen-7B's config to a Qwen2 config that computes the same.

    Its logn attention scales the queries, and its dynamic NTK scales the rotary base, only in sequences longer than its
    training length `seq_length` (the Qwen repository's FAQ; `log(i, seq_length)` and `2^ceil(log2(n / seq_length) + 1)
    - 1` are 1 up to there). A Qwen2 has neither, so if either is on, `max_position_embeddings` is that length, and
    longer samples are refused.

    Raises:
        InputError: a value is missing, or is not supported by Qwen2.
    """
    try:
        heads, hidden_size = values["num_attention_heads"], values["hidden_size"]
        must_be = {
            "no_bias": (values.get("no_bias", True), True),
            "rotary_pct": (values.get("rotary_pct", 1.0), 1.0),
            "scale_attn_weights": (values.get("scale_attn_weights", True), True),
            "kv_channels x num_attention_heads": (values.get("kv_channels", 128) * heads, hidden_size),
        }
        stretches = values.get("use_logn_attn", True) or values.get("use_dynamic_ntk", True)
        positions = values["seq_length"] if stretches else values["max_position_embeddings"]
        config = Qwen2Config(
            vocab_size=values["vocab_size"],
            hidden_size=hidden_size,
            intermediate_size=values["intermediate_size"] // 2,  # Qwen counts both halves
            num_hidden_layers=values["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=heads,
            rms_norm_eps=values["layer_norm_epsilon"],
            max_position_embeddings=positions,
            initializer_range=values.get("initializer_range", 0.02),
            tie_word_embeddings=values.get("tie_word_embeddings", False),
            rope_parameters={"rope_type": "default", "rope_theta": float(values.get("rotary_emb_base", 10000))},
        )
    except KeyError as error:
        raise InputError(f"the config.json of {str(folder)!r} lacks {error}; fetch Qwen's own") from error
    for name, (is_value, want) in must_be.items():
        if is_value != want:
            raise InputError(f"the config.json of {str(folder)!r} has {name} {is_value}, but MARS supports only {want}")
    return config
