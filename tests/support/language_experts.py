"""Makes small checkpoints of language experts, in every file format."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.support import qwen7b
from tests.support.small_models import TEXT_VOCAB


def write_folder(
    folder: Path, config: dict, weights: dict[str, Tensor], kind: str = "safetensors", files: int = 3
) -> Path:
    """Writes a checkpoint in `files` parts with an index, in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = list(weights)
    size = -(-len(names) // files)
    weight_map: dict[str, str] = {}
    for number in range(files):
        part = {name: weights[name].clone() for name in names[number * size : (number + 1) * size]}
        file = f"{stem}-{number + 1:05d}-of-{files:05d}.{suffix}"
        if kind == "safetensors":
            save_file(part, folder / file)
        else:  # before torch 1.6 it was no zip file
            torch.save(part, folder / file, _use_new_zipfile_serialization=kind != "old bin")
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_qwen(folder: Path, kind: str = "safetensors", **changes: Any) -> Path:
    config = qwen7b.SMALL | changes
    return write_folder(folder, config, qwen7b.random_weights(config), kind)


def write_qwen2(folder: Path, kind: str = "safetensors", **changes: Any) -> Qwen2ForCausalLM:
    values = dict(vocab_size=TEXT_VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    values |= dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(Qwen2Config(**values | changes), dtype=torch.float32).eval()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    write_folder(folder, model.config.to_dict(), weights, kind)
    return model
