"""Reads a language expert's folder in any supported format, under MARS's tensor names.

There are three formats: Qwen2's (Qwen1.5, Qwen2, Qwen2.5), Qwen-7B's own, with fused projections, and MARS's, of which
only the text side is read. Only configs and tensors are read: a folder's own code never runs.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from pipeline.architecture.mars_config import MarsConfig
from pipeline.errors import InputError
from pipeline.weights.tensor_files import NewTensor, TensorFile, TensorFolder, bytes_of, open_tensor_folder, pieces_of

FORMATS = ("qwen2", "qwen", "mars")
"""Supported values of `model_type` in a folder's config.json."""
NOT_WEIGHTS = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")
"""Name endings of buffers in old checkpoints, which follow from the config."""
HEAD, EMBEDDING = "head.text_weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class Part:
    """Rows `start` to `start + shape[0]` of a tensor in a file: the whole tensor, or one part of a fused tensor."""

    source: str
    start: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LanguageExpertFiles:
    """The files of a language expert, whose tensors are not loaded.

    Attributes:
        folder: its folder.
        format: one of `FORMATS`.
        config: its config as a Qwen2 config.
        tensors: its files.
        parts: the location of each of MARS's text tensors, in the model's order; a tied head has none.
    """

    folder: Path
    format: str
    config: Qwen2Config
    tensors: TensorFolder
    parts: dict[str, Part]

    def tensor(self, name: str, file: TensorFile) -> NewTensor:
        """One of `parts`, read from its opened file."""
        part = self.parts[name]
        row = math.prod(part.shape[1:])
        return NewTensor(name, part.shape, lambda: pieces_of(file, part.source, part.start * row, part.shape[0] * row))

    def file_of(self, name: str) -> str:
        """The file that holds one of `parts`."""
        return self.tensors.file_of[self.parts[name].source]

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """Yields every whole tensor of the text side in its stored dtype, file by file."""
        for file in self.tensors.files:
            opened = self.tensors.open(file)
            for name, part in self.parts.items():
                if self.file_of(name) == file:
                    yield name, torch.cat([*self.tensor(name, opened).pieces()]).view(part.shape)

    def base_sha256(self) -> str:
        """Computes `pipeline.model.loading.base_sha256` of the resulting model from the files."""
        digest, opened = hashlib.sha256(), dict[str, TensorFile]()
        for name in sorted(self.parts):
            file = self.file_of(name)
            if file not in opened:
                opened.clear()  # close before the next one: a file that cannot be mapped is in memory as a whole
                opened[file] = self.tensors.open(file)
            digest.update(name.encode())
            _hash_rounded(digest, self.tensor(name, opened[file]))
        return digest.hexdigest()


def _hash_rounded(digest: Any, tensor: NewTensor) -> None:
    """Hashes a tensor and keeps no reference to it: a piece would keep its whole file in memory."""
    for piece in tensor.pieces():
        digest.update(bytes_of(piece.to(torch.bfloat16)))


def open_language_expert(folder: Path) -> LanguageExpertFiles:
    """Opens the folder, and checks every tensor's name and shape against its config.

    Raises:
        InputError: the folder has none of the formats, or settings that MARS does not support; or a tensor is missing,
            unexpected or misshapen, and the message names the first one.
    """
    values = read_config(folder)
    kind = values["model_type"]
    config = language_expert_config(folder)
    tensors = open_tensor_folder(folder)
    own = qwen2_shapes(config)
    expected = {text_name(name): shape for name, shape in own.items()}
    if kind == "mars":
        parts = {name: Part(name, 0, shape) for name, shape in expected.items()}
    elif kind == "qwen":
        parts = _fused_parts(expected)
    else:
        parts = {text_name(name): Part(name, 0, shape) for name, shape in own.items()}
    wanted: dict[str, tuple[int, ...]] = {}
    for part in parts.values():
        rows = wanted.get(part.source, (0,))[0]
        wanted[part.source] = (rows + part.shape[0], *part.shape[1:])
    _check(folder, kind, wanted, tensors, config.tie_word_embeddings)
    return LanguageExpertFiles(folder, kind, config, tensors, parts)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a folder's config.json.

    Raises:
        InputError: there is none, or it is not of a language expert's format.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"language expert {str(folder)!r} has no config.json; run jobs/train_lm.py for the demo's, or name a "
            "folder of Qwen-7B, Qwen1.5, Qwen2 or Qwen2.5"
        )
    try:
        values = json.loads(path.read_text())
        kind = values.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is no readable config: {error}; fetch it again") from error
    if kind not in FORMATS:
        raise InputError(
            f"language expert {str(folder)!r} is a {kind!r} model; MARS is built on {', '.join(FORMATS[:2])}"
        )
    return values


def language_expert_config(folder: Path) -> Qwen2Config:
    """Reads the language expert's config as a Qwen2 config.

    Raises:
        InputError: see `open_language_expert`; the tensors are not checked.
    """
    values = read_config(folder)
    if values["model_type"] == "mars":
        return MarsConfig.from_pretrained(folder).language_expert()
    if values["model_type"] == "qwen":
        return qwen2_config_of_qwen(values, folder)
    config = Qwen2Config.from_pretrained(folder)
    if config.use_sliding_window:
        raise InputError(
            f"language expert {str(folder)!r} has use_sliding_window; MARS's attention sees everything before. Set it "
            "to false in config.json if its window is longer than your samples"
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
            raise InputError(f"the config.json of {str(folder)!r} has {name} {is_value}, a Qwen2 only has {want}")
    return config


def text_name(own_name: str) -> str:
    """MARS's name for a Qwen2 tensor."""
    if own_name == "lm_head.weight":
        return HEAD
    return own_name.replace(".self_attn.", ".text_expert.").replace(".mlp.", ".text_expert.mlp.")


def visual_twin(name: str) -> str:
    """The name of the visual expert's tensor that starts as a copy of this tensor of the language expert."""
    return name.replace(".text_expert.", ".visual_expert.")


def qwen2_shapes(config: Qwen2Config) -> dict[str, tuple[int, ...]]:
    """Shapes of a Qwen2's tensors by its own names, in the model's order."""
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _fused_parts(expected: dict[str, tuple[int, ...]]) -> dict[str, Part]:
    """Parts of Qwen-7B's fused tensors: `c_attn` is query, key and value; SiLU applies to `w2`, not to `w1`."""
    plain = {
        "model.embed_tokens.": "transformer.wte.",
        "model.norm.": "transformer.ln_f.",
        HEAD: "lm_head.weight",
        "model.layers.": "transformer.h.",
        ".input_layernorm.": ".ln_1.",
        ".post_attention_layernorm.": ".ln_2.",
        ".text_expert.o_proj.": ".attn.c_proj.",
        ".text_expert.mlp.gate_proj.": ".mlp.w2.",
        ".text_expert.mlp.up_proj.": ".mlp.w1.",
        ".text_expert.mlp.down_proj.": ".mlp.c_proj.",
    }
    parts = {}
    for name, shape in expected.items():
        source, start = name, 0
        for own, theirs in plain.items():
            source = source.replace(own, theirs)
        for index, projection in enumerate((".q_proj.", ".k_proj.", ".v_proj.")):
            if projection in source:
                source, start = source.replace(f".text_expert{projection}", ".attn.c_attn."), index * shape[0]
        parts[name] = Part(source, start, shape)
    return parts


def _check(folder: Path, kind: str, wanted: dict[str, tuple[int, ...]], tensors: TensorFolder, tied: bool) -> None:
    for name, shape in wanted.items():
        if name not in tensors.shapes:
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} is missing, which its config.json asks for; "
                "fetch the missing file, or the right config.json"
            )
        if tensors.shapes[name] != shape:
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} has shape {tensors.shapes[name]}, its config.json "
                f"asks for {shape}; fetch the config.json of these weights"
            )
    for name in sorted(tensors.shapes.keys() - wanted.keys()):
        belongs_to_tied = tied and name in ("lm_head.weight", HEAD)
        if belongs_to_tied and tensors.shapes[name] not in wanted.values():
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} has shape {tensors.shapes[name]}, which is not the "
                "embedding's, though its config.json ties them; fetch the config.json of these weights"
            )
        if not (belongs_to_tied or name.endswith(NOT_WEIGHTS) or (kind == "mars" and "visual" in name)):
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} is unexpected in a {kind!r} model of its "
                "config.json; fetch the config.json of these weights"
            )
