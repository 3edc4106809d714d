"""Baselines for MARS's training step. Each runs on the weights of a MARS model and computes its own loss.

They share its loss, mask and attention function, so that only the routing differs. Training does not use them.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from pipeline.architecture.masks import attention_mask
from pipeline.data.collate import MicroBatch
from pipeline.model.backbone import PackedBatch
from pipeline.model.layers import MarsDecoderLayer
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.transformers_private import attention_of
from pipeline.training.objective import Objective


class PrefixWithGradient(Objective):
    """Runs the text prefix in the same pass as the pictures, with gradients."""

    def packed(self, batch: MicroBatch) -> PackedBatch:
        """Returns the model's input, with one mask over text and pictures."""
        mask = mask_of(batch, self.mars)
        return replace(super().packed(batch), attention_mask=mask, text_mask=None)


class BothExperts(Objective):
    """Runs both experts on every position and selects the position's own with a boolean mask."""

    def __init__(self, model: MarsForCausalLM, compile_layers: bool = False) -> None:
        super().__init__(model)
        self._run_layer = torch.compile(run_both_experts) if compile_layers else run_both_experts

    def hidden_states(self, batches: list[MicroBatch]) -> list[tuple[Tensor, Tensor]]:
        """Returns the same states as the objective."""
        return [self._states_of(batch) for batch in batches]

    def _states_of(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        model, num_text = self.mars.model, batch.text.ids.shape[1]
        hidden = embedded(self.mars, batch)
        positions = torch.cat([batch.text.positions, batch.visual.positions], dim=1)
        is_visual = (torch.arange(positions.shape[1], device=positions.device) >= num_text)[None, :, None]
        is_visual = is_visual.expand(*positions.shape, 1)
        rotary, mask = model.rotary_emb(hidden, positions), mask_of(batch, self.mars)
        for layer in model.layers:
            assert isinstance(layer, MarsDecoderLayer)
            hidden = self._run_layer(layer, hidden, is_visual, rotary, mask)
        hidden = model.norm(hidden)
        return hidden[:, :num_text], hidden[:, num_text:]


def run_both_experts(
    layer: MarsDecoderLayer, hidden: Tensor, is_visual: Tensor, rotary: tuple[Tensor, Tensor], mask: Any
) -> Tensor:
    """Runs one layer on [B, T, D]: every projection and FFN twice, selected by `is_visual`, bool [B, T, 1]."""
    text, visual = layer.text_expert, layer.visual_expert
    normed = layer.input_layernorm(hidden)
    queries, keys, values = (
        torch.where(is_visual, of_visual, of_text)
        for of_text, of_visual in zip(text.qkv(normed), visual.qkv(normed), strict=True)
    )
    queries, keys, values = layer.rotate(queries, keys, values, rotary)
    attended = layer.attend(queries, keys, values, mask)
    hidden = hidden + torch.where(is_visual, layer.visual_o_proj(attended), text.o_proj(attended))
    normed = layer.post_attention_layernorm(hidden)
    return hidden + torch.where(is_visual, visual.mlp(normed), text.mlp(normed))


class Dense(Objective):
    """A plain Qwen2 with the same active parameters, and all matrices of its layers trained.

    It consists of the visual expert, which processes text as well. Its text embedding is frozen, which is in its
    favour.
    """

    def __init__(self, model: MarsForCausalLM, compile_layers: bool = False, normalisation: str = "state") -> None:
        super().__init__(model, normalisation)
        assert not model.config.shared_output_projection, "that one is frozen"
        assert not model.config.visual_query_key_norm, "text would be normalised, too"
        config = model.config.language_expert()
        config.vocab_size = 1
        with torch.device("meta"):
            self.qwen2 = AutoModel.from_config(config)
        self.qwen2.set_attn_implementation(attention_of(model))
        for plain, layer in zip(self.qwen2.layers, model.model.layers, strict=True):
            assert isinstance(layer, MarsDecoderLayer)
            expert = layer.visual_expert
            plain.self_attn.q_proj, plain.self_attn.k_proj = expert.q_proj, expert.k_proj
            plain.self_attn.v_proj, plain.self_attn.o_proj = expert.v_proj, layer.visual_o_proj
            if expert.q_norm is not None:
                plain.self_attn.q_norm, plain.self_attn.k_norm = expert.q_norm, expert.k_norm
            plain.mlp = expert.mlp
            plain.input_layernorm = layer.input_layernorm
            plain.post_attention_layernorm = layer.post_attention_layernorm
            if compile_layers:
                plain.compile()
        self.qwen2.norm, self.qwen2.rotary_emb = model.model.norm, model.model.rotary_emb
        self.qwen2.embed_tokens = nn.Identity()

    def hidden_states(self, batches: list[MicroBatch]) -> list[tuple[Tensor, Tensor]]:
        """Returns the same states as the objective while the visual expert is a copy of the language expert."""
        return [self._states_of(batch) for batch in batches]

    def _states_of(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        positions = torch.cat([batch.text.positions, batch.visual.positions], dim=1)
        hidden = self.qwen2(
            inputs_embeds=embedded(self.mars, batch),
            attention_mask=mask_of(batch, self.mars),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        num_text = batch.text.ids.shape[1]
        return hidden[:, :num_text], hidden[:, num_text:]


def embedded(model: MarsForCausalLM, batch: MicroBatch) -> Tensor:
    """Returns the embeddings of both streams, [B, Tt + Tv, D]."""
    return torch.cat([model.model.embed_tokens(batch.text.ids), model.model.embed_visual(batch.visual.ids)], dim=1)


def mask_of(batch: MicroBatch, model: MarsForCausalLM) -> Any:
    """Returns the mask over both streams."""
    everything = batch.text.places.followed_by(batch.visual.places)
    return attention_mask(everything, everything, attention_of(model), model.dtype)
