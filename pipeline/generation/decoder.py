"""Incremental decoding with a static cache of keys and values.

Slot p of a row's cache belongs to the row's position p, so rows of different lengths need no padding between prompt and
answer: each query gets the number of slots that it sees. Slots after that are ignored, and later steps overwrite them.

Every pass runs one expert on all of its positions: prompts and captions are text only, pictures are visual only.

Shape letters: R rows of the cache, B <= R rows of a pass, T positions of a pass, S slots, D hidden size, G key heads,
d head size.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config.model_sizes import cache_slots
from pipeline.config.vocabulary import State
from pipeline.generation.packed_linear import PackedLinear, can_pack, packed
from pipeline.model.layers import MarsDecoderLayer
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.torch_private import mark_static_address


class Decoder:
    """Decodes rows of ids, some positions per pass.

    All tensors are allocated once and keep their addresses, as CUDA graphs require.

    Args:
        model: the model. The cache has its device and dtype.
        num_rows: rows of the cache.
        capacity: maximum positions of a row.
        many_steps: many picture steps will follow: on a CPU, pack the visual weights for them first.
        whole_cache: attend to all slots in every pass, with unused ones masked, so that all passes of a shape run the
            same operations. Otherwise attend only to the slots that some row has filled.
    """

    def __init__(
        self,
        model: MarsForCausalLM,
        num_rows: int,
        capacity: int,
        many_steps: bool = True,
        whole_cache: bool = False,
    ) -> None:
        config, weight = model.config, model.head.visual_weight
        self.model, self.num_rows, self.capacity, self._whole_cache = model, num_rows, capacity, whole_cache
        self._layers = cast(list[MarsDecoderLayer], list(model.model.layers))
        num_slots = cache_slots(capacity)
        shape = (num_rows, config.num_key_value_heads, num_slots, config.head_size)
        # Zeros, not uninitialized memory: a masked slot still enters a sum, with weight 0.
        self._keys = [weight.new_zeros(shape) for _ in self._layers]
        self._values = [weight.new_zeros(shape) for _ in self._layers]
        self._visual_experts = [layer.visual_expert for layer in self._layers]
        self._visual_o_projs: list[nn.Module] = [layer.visual_o_proj for layer in self._layers]
        self._codes_head: PackedLinear | None = None
        if many_steps and can_pack(weight):
            self._visual_experts = [packed(expert) for expert in self._visual_experts]
            self._visual_o_projs = [packed(o_proj) for o_proj in self._visual_o_projs]
            self._codes_head = PackedLinear(weight[config.vocabulary.allowed(State.CODES).visual_rows])
        self._slots = torch.arange(num_slots, device=weight.device)
        self._rows = torch.arange(num_rows, device=weight.device)[:, None]
        if weight.device.type == "cuda":
            for tensor in (*self._keys, *self._values):
                mark_static_address(tensor)

    @property
    def device(self) -> torch.device:
        """The device of the model and of the cache."""
        return self._slots.device

    @property
    def idle_position(self) -> int:
        """The position for rows that are idle in a pass: a slot that no query ever sees."""
        return self.capacity

    def text(self, ids: Tensor, positions: Tensor, num_seen: int, first_row: int = 0) -> Tensor:
        """Runs text ids through the text expert.

        Args:
            ids: int64 [B, T], for B rows of the cache.
            positions: int64 [B, T], the position of each id. An id sees all positions before it, and itself.
            num_seen: the maximum number of slots that any query sees.
            first_row: the first of the cache's rows.

        Returns:
            Hidden states after the final norm, [B, T, D].
        """
        hidden = self.model.model.embed_tokens(ids)
        return self._run(False, hidden, positions, positions + 1, num_seen, first_row)

    def visual(
        self,
        ids: Tensor,
        positions: Tensor,
        picture_positions: Tensor,
        seen: Tensor,
        num_seen: int,
        first_row: int = 0,
    ) -> Tensor:
        """Runs visual joint ids through the visual expert.

        As `text`, but each query sees the first `seen` slots, int64 [B, T], which include its whole group of
        next-K-token prediction. `picture_positions`, int64 [B, T], count from the picture's opener (see the module of
        that name).
        """
        hidden = self.model.model.embed_visual(ids, picture_positions)
        return self._run(True, hidden, positions, seen, num_seen, first_row)

    def logits(self, hidden: Tensor, state: State) -> Tensor:
        """Float32 logits over what `state` allows, [..., rows]."""
        if state is State.CODES and self._codes_head:
            logits: Tensor = self._codes_head(hidden)
        else:
            logits = self.model.head(hidden, state)
        return logits.float()

    def _run(
        self, visual: bool, hidden: Tensor, positions: Tensor, seen: Tensor, num_seen: int, first_row: int
    ) -> Tensor:
        num_slots = len(self._slots) if self._whole_cache else num_seen
        of_pass = slice(first_row, first_row + len(hidden))
        rows = self._rows[of_pass]
        # An additive mask: CPU attention would convert a bool mask to one in every layer.
        hidden_slots = self._slots[:num_slots] >= seen[:, :, None]
        mask = torch.zeros_like(hidden_slots, dtype=hidden.dtype).masked_fill_(hidden_slots, float("-inf"))[:, None]
        rotary = self.model.model.rotary_emb(hidden, positions)
        for number, layer in enumerate(self._layers):
            keys, values = self._keys[number], self._values[number]
            expert = self._visual_experts[number] if visual else layer.text_expert
            o_proj = self._visual_o_projs[number] if visual else expert.o_proj
            queries, new_keys, new_values = layer.rotate(*expert.qkv(layer.input_layernorm(hidden)), rotary)
            keys[rows, :, positions] = new_keys.transpose(1, 2)
            values[rows, :, positions] = new_values.transpose(1, 2)
            attended = F.scaled_dot_product_attention(
                queries,
                keys[of_pass, :, :num_slots],
                values[of_pass, :, :num_slots],
                attn_mask=mask,
                scale=layer.scaling,
                enable_gqa=layer.num_key_value_groups > 1,
            )
            hidden = hidden + o_proj(attended.transpose(1, 2).flatten(2))
            hidden = hidden + expert.mlp(layer.post_attention_layernorm(hidden))
        normed: Tensor = self.model.model.norm(hidden)
        return normed
