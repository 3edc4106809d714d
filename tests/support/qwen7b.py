"""Small reference of Qwen-7B after its paper and public code, with its own tensor names, to check conversions against.
It shares no code with the package.
"""

import math
from typing import Any

import torch
from torch import Tensor

SMALL: dict[str, Any] = dict(
    model_type="qwen",
    vocab_size=300,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    kv_channels=8,
    intermediate_size=96,
    layer_norm_epsilon=1e-6,
    rotary_emb_base=10000,
    seq_length=24,
    max_position_embeddings=96,
    use_dynamic_ntk=True,
    use_logn_attn=True,
    no_bias=True,
    tie_word_embeddings=False,
)


def random_weights(config: dict, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Returns random weights under Qwen-7B's names. `intermediate_size` counts both halves of the FFN."""
    generator = torch.Generator().manual_seed(7)
    D, half = config["hidden_size"], config["intermediate_size"] // 2
    width = config["kv_channels"] * config["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (config["vocab_size"], D)}
    for layer in range(config["num_hidden_layers"]):
        own = {
            "ln_1.weight": (D,),
            "attn.c_attn.weight": (3 * width, D),
            "attn.c_attn.bias": (3 * width,),
            "attn.c_proj.weight": (D, width),
            "ln_2.weight": (D,),
            "mlp.w1.weight": (half, D),
            "mlp.w2.weight": (half, D),
            "mlp.c_proj.weight": (D, half),
        }
        shapes |= {f"transformer.h.{layer}.{name}": shape for name, shape in own.items()}
    shapes |= {"transformer.ln_f.weight": (D,), "lm_head.weight": (config["vocab_size"], D)}
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        weights[name] = (1 + 0.3 * noise if ".ln_" in name else 0.3 * noise).to(dtype)
    return weights


def logits(config: dict, weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Maps ids [T] to logits [T, vocab_size].

    Beyond `seq_length` the queries are scaled by log(position, seq_length), and the rotary base grows.
    """
    T, heads, d = len(ids), config["num_attention_heads"], config["kv_channels"]
    trained = config["seq_length"]
    base = float(config["rotary_emb_base"])
    if config["use_dynamic_ntk"] and trained < T:
        alpha = 2 ** math.ceil(math.log2(T / trained) + 1) - 1
        base *= alpha ** (d / (d - 2))
    angles = torch.outer(torch.arange(T).float(), base ** -(torch.arange(0, d, 2).float() / d))

    def rotate(states: Tensor) -> Tensor:
        first, second = states.chunk(2, dim=-1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def norm(hidden: Tensor, name: str) -> Tensor:
        scale = (hidden.square().mean(-1, keepdim=True) + config["layer_norm_epsilon"]).rsqrt()
        normed: Tensor = hidden * scale * weights[name]
        return normed

    positions = torch.arange(1, T + 1).float()
    logn = torch.where(positions > trained, positions.log() / math.log(trained), torch.ones(T))
    hidden = weights["transformer.wte.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        own = {
            name.removeprefix(f"transformer.h.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"transformer.h.{layer}.")
        }
        fused = norm(hidden, f"transformer.h.{layer}.ln_1.weight") @ own["attn.c_attn.weight"].T
        queries, keys, values = (fused + own["attn.c_attn.bias"]).view(T, 3, heads, d).unbind(1)
        queries, keys = rotate(queries), rotate(keys)
        if config["use_logn_attn"]:
            queries = queries * logn[:, None, None]
        scores = torch.einsum("qhd,khd->hqk", queries, keys) / math.sqrt(d)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), float("-inf")).softmax(-1)
        hidden = hidden + torch.einsum("hqk,khd->qhd", scores, values).flatten(1) @ own["attn.c_proj.weight"].T
        normed = norm(hidden, f"transformer.h.{layer}.ln_2.weight")
        gate = normed @ own["mlp.w2.weight"].T
        hidden = hidden + (normed @ own["mlp.w1.weight"].T * gate * gate.sigmoid()) @ own["mlp.c_proj.weight"].T
    return norm(hidden, "transformer.ln_f.weight") @ weights["lm_head.weight"].T
