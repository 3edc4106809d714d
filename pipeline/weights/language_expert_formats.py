"""Reads a language expert's folder in any supported format, under MARS's tensor names.

There are four formats: Qwen2's (Qwen1.5, Qwen2, Qwen2.5), Qwen3's, Qwen-7B's own, with fused projections, and MARS's,
of which only the text side is read. Only configs and tensors are read: a folder's own code never runs.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pipeline.architecture.mars_config import ExpertConfig, MarsConfig
from pipeline.errors import InputError
from pipeline.weights.config_values import explained
from pipeline.weights.language_expert_configs import folder_of, language_expert_config, read_config
from pipeline.weights.tensor_files import NewTensor, TensorFile, TensorFolder, bytes_of, open_tensor_folder, pieces_of
from tokenization.files.content import content_of_tensors
from tokenization.files.tensor_names import prefixes_of, unwrapped

NOT_WEIGHTS = (".rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")
"""Name endings of buffers in old checkpoints, which follow from the config."""
HEAD, EMBEDDING = "head.text_weight", "model.embed_tokens.weight"
NORMED = (".text_expert.q_proj.weight", ".text_expert.k_proj.weight")
"""Name endings of the matrices whose results may be normalised."""
TIED_HEADS = ("lm_head.weight", HEAD)
"""Names of a head that a file may have although it is the embedding."""


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
        config: its config, a Qwen2's or a Qwen3's.
        tensors: its files.
        parts: the location of each of MARS's text tensors, in the model's order; a tied head has none.
    """

    folder: Path
    format: str
    config: ExpertConfig
    tensors: TensorFolder
    parts: dict[str, Part]

    def tensor(self, name: str, file: TensorFile) -> NewTensor:
        """One of `parts`, read from its opened file."""
        part = self.parts[name]
        row = math.prod(part.shape[1:])
        return NewTensor(name, part.shape, lambda: self._finite(file, part, row))

    def _finite(self, file: TensorFile, part: Part, row: int) -> Iterator[Tensor]:
        for piece in pieces_of(file, part.source, part.start * row, part.shape[0] * row):
            if not piece.isfinite().all():
                raise InputError(
                    f"language expert {str(self.folder)!r}: tensor {part.source!r} has values that are not finite; "
                    "fetch it again"
                )
            yield piece

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
    """Opens the folder, or the file of weights in it, and checks every tensor's name and shape against its config.

    Raises:
        InputError: the folder has none of the formats, or settings that MARS does not support; or a tensor is missing,
            twice there,
            unexpected or misshapen, and the message names the first one; or a head that its config ties differs from
            the embedding.
    """
    kind, config = read_config(folder)["model_type"], language_expert_config(folder)
    tensors = open_tensor_folder(folder)
    folder = folder_of(folder)
    with explained(folder):
        own = expert_shapes(config)
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
    stored = _stored_names(tensors.shapes, kind)
    _check(folder, kind, wanted, {name: tensors.shapes[source] for name, source in stored.items()}, config)
    if config.tie_word_embeddings:
        _check_tie(folder, stored, tensors)
    parts = {name: replace(part, source=stored[part.source]) for name, part in parts.items()}
    return LanguageExpertFiles(folder, kind, config, tensors, parts)


def _stored_names(names: Iterable[str], kind: str) -> dict[str, str]:
    """Each tensor's name in the files by its own name: without wrappers, and without what stands before all of them."""
    stored: dict[str, str] = {}
    for name in names:
        if (other := stored.setdefault(unwrapped(name), name)) != name:
            raise InputError(f"tensors {other!r} and {name!r} are the same without wrappers; save the model once")
    anchor = "transformer.wte.weight" if kind == "qwen" else "model.embed_tokens.weight"
    prefixes = prefixes_of(stored, anchor)
    if not prefixes and anchor.removeprefix("model.") in stored:  # of the model without its head
        return {name if name == "lm_head.weight" else f"model.{name}": source for name, source in stored.items()}
    if len(prefixes) == 1 and prefixes[0]:
        (prefix,) = prefixes
        head = prefix.removesuffix("model.")  # the head may stand beside the model, not in it
        return {name.removeprefix(prefix).removeprefix(head): source for name, source in stored.items()}
    return stored


def text_name(own_name: str) -> str:
    """MARS's name for a tensor of a Qwen2 or a Qwen3."""
    if own_name == "lm_head.weight":
        return HEAD
    return own_name.replace(".self_attn.", ".text_expert.").replace(".mlp.", ".text_expert.mlp.")


def visual_twin(name: str) -> str:
    """The name of the visual expert's tensor that starts as a copy of this tensor of the language expert."""
    return name.replace(".text_expert.", ".visual_expert.")


def visual_norm(name: str, config: MarsConfig) -> str:
    """The name of the visual expert's norm of the queries or keys that this matrix of the language expert projects to,
    if the model has that norm and the language expert has none to copy; else empty."""
    if not config.visual_query_key_norm or config.query_key_norm or not name.endswith(NORMED):
        return ""
    return visual_twin(name).replace("_proj.", "_norm.")


def expert_shapes(config: ExpertConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a language expert's tensors by transformers' names, in the model's order."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
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


def _check(
    folder: Path,
    kind: str,
    wanted: dict[str, tuple[int, ...]],
    shapes: dict[str, tuple[int, ...]],
    config: ExpertConfig,
) -> None:
    for name, shape in wanted.items():
        if name not in shapes and (found := content_of_tensors(shapes)):
            raise InputError(f"language expert {str(folder)!r} is {found}")
        if name not in shapes:
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} is missing, which its config.json asks for; "
                "fetch the missing file, or the right config.json"
            )
        if shapes[name] != shape:
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} has shape {shapes[name]}, its config.json "
                f"asks for {shape}; fetch the config.json of these weights"
            )
    for name in sorted(shapes.keys() - wanted.keys()):
        belongs_to_tied = config.tie_word_embeddings and name in TIED_HEADS
        if belongs_to_tied and shapes[name] not in wanted.values():
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} has shape {shapes[name]}, which is not the "
                "embedding's, though its config.json ties them; fetch the config.json of these weights"
            )
        if not (belongs_to_tied or name.endswith(NOT_WEIGHTS) or (kind == "mars" and "visual" in name)):
            if found := content_of_tensors([name]):
                raise InputError(f"language expert {str(folder)!r} has {name!r}: it is {found}")
            raise InputError(
                f"language expert {str(folder)!r}: tensor {name!r} is unexpected in a {kind!r} model of its "
                "config.json; fetch the config.json of these weights"
            )


def _check_tie(folder: Path, stored: dict[str, str], tensors: TensorFolder) -> None:
    """Raises InputError if the files have a head that differs from the embedding, though the config ties both."""
    embedding = next(stored[name] for name in (EMBEDDING, "transformer.wte.weight") if name in stored)
    for head in (stored[name] for name in TIED_HEADS if name in stored):
        count = math.prod(tensors.shapes[head])
        pieces = (pieces_of(tensors.open(tensors.file_of[each]), each, 0, count) for each in (head, embedding))
        if not all(torch.equal(*pair) for pair in zip(*pieces, strict=True)):
            raise InputError(
                f"language expert {str(folder)!r}: tensor {head!r} differs from {embedding!r}, though its config.json "
                "ties them; set tie_word_embeddings to false there if these are the right weights"
            )
