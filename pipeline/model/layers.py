"""One SemVIE layer: a frozen language expert and a trained visual expert around one joint attention.

Shape letters: B rows, T positions of a row, Tt and Tv its text and visual ones, Nt and Nv those of the batch,
D hidden size, H query heads, G key and value heads, d head size.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2MLP,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.vocabulary import Role
from pipeline.model.picture_positions import picture_positions, position_encoding
from pipeline.model.routing import Routing
from pipeline.runtime.torch_private import Float32Buffers
from pipeline.runtime.transformers_private import attention_of

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine, each [B, T, d]."""


class KeyValue(NamedTuple):
    """Keys and values of some positions, each [B, G, T, d]."""

    keys: Tensor
    values: Tensor


class RotaryEmbedding(Float32Buffers, Qwen2RotaryEmbedding):
    """Qwen2's rotary embedding whose frequencies stay float32.

    `module.bfloat16()`, which DeepSpeed calls, would round them: a position's angle would be off by up to 0.4%,
    and the angles would differ once the trained model is loaded with `from_pretrained`.
    """

    float32_buffers = ("inv_freq", "original_inv_freq")


class VisualEmbedding(nn.Embedding):
    """The embedding of joint visual ids plus the encoding of their positions in the picture."""

    def __init__(self, config: MarsConfig) -> None:
        super().__init__(config.vocabulary.num_visual, config.hidden_size)
        self.text_vocab_size, self.picture_position_std = config.text_vocab_size, config.picture_position_std
        self.opener = config.vocabulary.opener(Role.BASE)

    def forward(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Joint ids [B, T] to [B, T, D]. Without `positions`, every picture must start at its opener.

        `positions` are positions in the picture, int64, in the shape of the ids.
        """
        hidden = super().forward(ids - self.text_vocab_size)
        if not self.picture_position_std:
            return hidden
        positions = picture_positions(ids, self.opener) if positions is None else positions
        return hidden + position_encoding(positions, self.embedding_dim, self.picture_position_std).to(hidden.dtype)


class GatedMlp(Qwen2MLP):
    """Qwen2's FFN. The operations between its matrix products are a separate method, which can be compiled alone."""

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.down_proj(self.gated(self.gate_proj(hidden), self.up_proj(hidden)))

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """act(gate) * up, in any shape. The activation has no parameters, so no hook needs to gather them."""
        return self.act_fn.forward(gate) * up


class Expert(nn.Module):
    """One modality's projections and FFN: a Qwen2 layer without its norms."""

    def __init__(self, config: MarsConfig, with_output_projection: bool = True) -> None:
        super().__init__()
        head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * head_dim, bias=True)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * head_dim, bias=True)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * head_dim, bias=True)
        if with_output_projection:
            self.o_proj = nn.Linear(config.num_attention_heads * head_dim, config.hidden_size, bias=False)
        self.mlp = GatedMlp(config)

    def qkv(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] to queries [..., H*d], keys and values [..., G*d]."""
        return self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)


class MarsDecoderLayer(nn.Module):
    """Both experts, the two norms they share, and the attention over the joint sequence.

    `forward` runs a batch with text and pictures in any order. If text comes first in every sample, `forward_text` and
    `forward_visual` run the batch in two passes, and the text pass needs no gradient.
    """

    def __init__(self, config: MarsConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        # The attributes that transformers' attention functions read from the module that they get.
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.text_expert = Expert(config)
        self.visual_expert = Expert(config, with_output_projection=not config.shared_output_projection)
        self.input_layernorm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        text: Tensor,
        visual: Tensor,
        routing: Routing,
        rotary: Rotary,
        attention_mask: Any,
        past_key_values: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs both streams through the layer, shaped as in `routing`: [Nt, D], [Nv, D] or [B, Tt, D], [B, Tv, D].

        The mask has the attention function's form: see `pipeline.model.attention`.
        """
        text_qkv = self._qkv(self.text_expert, text)
        visual_qkv = self._qkv(self.visual_expert, visual)
        queries, keys, values = (
            routing.join(of_text, of_visual) for of_text, of_visual in zip(text_qkv, visual_qkv, strict=True)
        )
        queries, keys, values = self.rotate(queries, keys, values, rotary)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, self.layer_idx)
        attended = self.attend(queries, keys, values, attention_mask)
        text_attended, visual_attended = routing.split(attended)
        return (
            self._finish(self.text_expert, self.text_expert.o_proj, text, text_attended),
            self._finish(self.visual_expert, self.visual_o_proj, visual, visual_attended),
        )

    def forward_text(self, text: Tensor, rotary: Rotary, attention_mask: Any) -> tuple[Tensor, KeyValue]:
        """Runs text alone, [B, Tt, D]. Also returns its keys and values, for `forward_visual`."""
        queries, keys, values = self.rotate(*self._qkv(self.text_expert, text), rotary)
        key_value = KeyValue(keys, values)
        attended = self.attend(queries, *key_value, attention_mask)
        return self._finish(self.text_expert, self.text_expert.o_proj, text, attended), key_value

    def forward_visual(self, visual: Tensor, prefix: KeyValue, rotary: Rotary, attention_mask: Any) -> Tensor:
        """Runs pictures, [B, Tv, D], which attend to the text before them and to themselves: Tt + Tv keys."""
        queries, keys, values = self.rotate(*self._qkv(self.visual_expert, visual), rotary)
        key_value = KeyValue(torch.cat([prefix.keys, keys], dim=2), torch.cat([prefix.values, values], dim=2))
        attended = self.attend(queries, *key_value, attention_mask)
        return self._finish(self.visual_expert, self.visual_o_proj, visual, attended)

    def compile_passes(self) -> None:
        """Compiles each of the three passes with `torch.compile`. Repeating shapes are compiled once."""
        for name in ("forward", "forward_text", "forward_visual"):
            setattr(self, name, torch.compile(getattr(self, name)))

    def compile_between_products(self) -> None:
        """Compiles only the operations between the matrix products: norms, rotary positions, the FFN's gate.

        None of them calls a module. ZeRO-3 gathers a module's parameters in hooks around its call. These hooks break a
        compiled pass into graphs, again in every layer, until dynamo stops after `recompile_limit` of them.
        """
        for owner, name in (
            (self.input_layernorm, "forward"),
            (self.post_attention_layernorm, "forward"),
            (self, "rotate"),
            (self.text_expert.mlp, "gated"),
            (self.visual_expert.mlp, "gated"),
        ):
            setattr(owner, name, torch.compile(getattr(owner, name)))

    @property
    def visual_o_proj(self) -> nn.Linear:
        """The output projection of visual positions."""
        return (self.text_expert if self.config.shared_output_projection else self.visual_expert).o_proj

    def _qkv(self, expert: Expert, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return expert.qkv(self.input_layernorm(hidden))

    def rotate(self, queries: Tensor, keys: Tensor, values: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, heads*d] to [B, heads, T, d], with rotary positions on queries and keys."""
        queries, keys, values = (
            states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for states in (queries, keys, values)
        )
        queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
        return queries, keys, values

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, attention_mask: Any) -> Tensor:
        """[B, H, Tq, d] queries on [B, G, Tk, d] keys and values: [B, Tq, H*d]."""
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(self.config), eager_attention_forward)
        attended, _ = attention(self, queries, keys, values, attention_mask, dropout=0.0, scaling=self.scaling)
        return attended.flatten(2)

    def _finish(self, expert: Expert, o_proj: nn.Linear, hidden: Tensor, attended: Tensor) -> Tensor:
        """Applies the output projection, the FFN, and both residual connections."""
        hidden = hidden + o_proj(attended)
        return hidden + expert.mlp(self.post_attention_layernorm(hidden))
