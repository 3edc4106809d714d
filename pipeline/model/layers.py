"""One SemVIE layer: a frozen language expert and a trained visual expert around one joint attention.

Shape letters: B rows, T positions of a row, Tt and Tv its text and visual ones, Nt and Nv those of the batch,
D hidden size, H query heads, G key and value heads, d head size.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint
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
from pipeline.model.attention import flex
from pipeline.model.passes import JointPass, PrefixPass, Rotary
from pipeline.model.picture_positions import picture_positions, position_encoding
from pipeline.runtime.stopwatch import Stopwatch
from pipeline.runtime.torch_private import Float32Buffers
from pipeline.runtime.transformers_private import attention_of


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

    def __init__(self, config: MarsConfig) -> None:
        if config.rope_parameters["rope_type"] != "default":  # transformers' other kinds do not derive the head's size
            config = copy(config)
            config.head_dim = config.head_size
        super().__init__(config)


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


class Expert(nn.Module):
    """One modality's projections and FFN: a Qwen2 or Qwen3 layer without the norms that both experts share.

    With `query_key_norm` it normalises queries and keys head by head.
    """

    def __init__(self, config: MarsConfig, query_key_norm: bool, with_output_projection: bool = True) -> None:
        super().__init__()
        self.head_dim, bias = config.head_size, config.qkv_bias
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.q_norm: Qwen2RMSNorm | None = None
        self.k_norm: Qwen2RMSNorm | None = None
        if query_key_norm:
            self.q_norm = Qwen2RMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = Qwen2RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        if with_output_projection:
            self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, config.hidden_size, bias=False)
        self.mlp = Qwen2MLP(config)

    def qkv(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., D] to queries [..., H*d], keys and values [..., G*d]."""
        queries, keys, values = self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden)
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self._normed(self.q_norm, queries), self._normed(self.k_norm, keys)
        return queries, keys, values

    def _normed(self, norm: nn.Module, states: Tensor) -> Tensor:
        """Normalises each head of [..., heads*d]."""
        normed: Tensor = norm(states.unflatten(-1, (-1, self.head_dim)))
        return normed.flatten(-2)


class MarsDecoderLayer(nn.Module):
    """Both experts, the two norms they share, and the attention over the joint sequence.

    One call runs all micro-batches of a micro-step. So ZeRO-3 gathers a layer once in the forward and once in the
    backward pass, and a layer's gradient is complete when its backward pass ends.
    """

    def __init__(self, config: MarsConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_size
        # The attributes that transformers' attention functions read from the module that they get.
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.text_expert = Expert(config, config.query_key_norm)
        self.visual_expert = Expert(config, config.norms_visual_queries, not config.shared_output_projection)
        self.input_layernorm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        *streams: Tensor,
        passes: Sequence[JointPass | PrefixPass],
        recompute: bool = False,
        watch: Stopwatch | None = None,
    ) -> tuple[Tensor, ...]:
        """Runs one or more passes.

        Args:
            streams: text and visual hidden states of each pass in turn, shaped as in its routing: [Nt, D], [Nv, D] or
                [B, Tt, D], [B, Tv, D].
            passes: what else each pass needs.
            recompute: recompute what has a gradient in the backward pass, instead of keeping its activations.
            watch: gets a lap for each pass, under its name.

        Returns:
            The streams, in the same order and shapes.
        """
        outputs: list[Tensor] = []
        for each, text, visual in zip(passes, streams[::2], streams[1::2], strict=True):
            if isinstance(each, PrefixPass):
                with torch.no_grad():
                    text, prefix = self.run_text(text, each.text_rotary, each.text_mask)
                inputs = (visual, prefix, each.visual_rotary, each.visual_mask)
                visual = _run(recompute, self.run_visual, *inputs)
            else:
                text, visual = _run(recompute, self.run_joint, text, visual, each)
            outputs += (text, visual)
            if watch:
                watch.lap(each.name)
        return tuple(outputs)

    def run_joint(self, text: Tensor, visual: Tensor, joint: JointPass) -> tuple[Tensor, Tensor]:
        """Runs both streams of a pass."""
        text_qkv = self._qkv(self.text_expert, text)
        visual_qkv = self._qkv(self.visual_expert, visual)
        queries, keys, values = (
            joint.routing.join(of_text, of_visual) for of_text, of_visual in zip(text_qkv, visual_qkv, strict=True)
        )
        queries, keys, values = self.rotate(queries, keys, values, joint.rotary)
        if joint.cache is not None:
            keys, values = joint.cache.update(keys, values, self.layer_idx)
        attended = self.attend(queries, keys, values, joint.attention_mask, joint.attentions)
        text_attended, visual_attended = joint.routing.split(attended)
        return (
            self._finish(self.text_expert, self.text_expert.o_proj, text, text_attended),
            self._finish(self.visual_expert, self.visual_o_proj, visual, visual_attended),
        )

    def run_text(self, text: Tensor, rotary: Rotary, attention_mask: Any) -> tuple[Tensor, KeyValue]:
        """Runs text alone, [B, Tt, D]. Also returns its keys and values, for `run_visual`."""
        queries, keys, values = self.rotate(*self._qkv(self.text_expert, text), rotary)
        key_value = KeyValue(keys, values)
        attended = self.attend(queries, *key_value, attention_mask)
        return self._finish(self.text_expert, self.text_expert.o_proj, text, attended), key_value

    def run_visual(self, visual: Tensor, prefix: KeyValue, rotary: Rotary, attention_mask: Any) -> Tensor:
        """Runs pictures, [B, Tv, D], which attend to the text before them and to themselves: Tt + Tv keys."""
        queries, keys, values = self.rotate(*self._qkv(self.visual_expert, visual), rotary)
        key_value = KeyValue(torch.cat([prefix.keys, keys], dim=2), torch.cat([prefix.values, values], dim=2))
        attended = self.attend(queries, *key_value, attention_mask)
        return self._finish(self.visual_expert, self.visual_o_proj, visual, attended)

    def compile_passes(self) -> None:
        """Compiles each kind of pass with `torch.compile`. Repeating shapes are compiled once, for all layers.

        ZeRO-3 takes the layer as one unit: it gathers in hooks around the layer's call, and none is inside a pass.
        """
        for name in ("run_joint", "run_text", "run_visual"):
            setattr(self, name, torch.compile(getattr(self, name)))

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

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        attention_mask: Any,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """[B, H, Tq, d] queries on [B, G, Tk, d] keys and values: [B, Tq, H*d]. `attentions` gets the probabilities."""
        if isinstance(attention_mask, BlockMask):
            return flex(queries, keys, values, attention_mask, self.scaling).flatten(2)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(self.config), eager_attention_forward)
        attended, weights = attention(self, queries, keys, values, attention_mask, dropout=0.0, scaling=self.scaling)
        if attentions is not None:
            attentions.append(weights)
        joined: Tensor = attended.flatten(2)
        return joined

    def _finish(self, expert: Expert, o_proj: nn.Linear, hidden: Tensor, attended: Tensor) -> Tensor:
        """Applies the output projection, the FFN, and both residual connections."""
        hidden = hidden + o_proj(attended)
        finished: Tensor = hidden + expert.mlp(self.post_attention_layernorm(hidden))
        return finished


def _run(recompute: bool, function: Callable[..., Any], *inputs: Any) -> Any:
    if recompute:  # nothing in a layer is random
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)
