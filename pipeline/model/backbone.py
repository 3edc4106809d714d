"""SemVIE without its heads, as a transformers model: embeddings, layers and the final norm.

Shape letters: B rows, T positions, D hidden size.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.vocabulary import Role
from pipeline.model.layers import KeyValue, MarsDecoderLayer, RotaryEmbedding, VisualEmbedding
from pipeline.model.picture_positions import last_openers, picture_positions, picture_positions_after
from pipeline.model.routing import IndexRouting, StreamRouting

LAST_OPENER = "mars_last_opener"
"""Attribute of a cache: the number of each row's last picture opener, int64 [B]."""


class MarsPreTrainedModel(PreTrainedModel):
    """The attributes by which transformers recognises the abilities of a model class."""

    config_class = MarsConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MarsDecoderLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class MarsModel(MarsPreTrainedModel):
    """SemVIE without its heads."""

    def __init__(self, config: MarsConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.text_vocab_size, config.hidden_size)
        self.embed_visual = VisualEmbedding(config)
        self.layers = nn.ModuleList(MarsDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = Qwen2RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.checkpoint_every = 1
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        picture_position_ids: Tensor | None = None,
    ) -> BaseModelOutputWithPast:
        """Runs text and pictures in any order.

        Args:
            input_ids: int64 [B, T], joint vocabulary.
            attention_mask: [B, T] with 0 at padding; a position sees itself and all earlier ones.
            position_ids: int64 [B, T]; None continues after the cached positions.
            picture_position_ids: int64 [B, T], position of each visual id in its picture (see `picture_positions`);
                None counts from the openers, including those in the cache.

        Returns:
            `last_hidden_state` [B, T, D] after the final norm, and the cache.

        Raises:
            ValueError: an id continues a picture whose opener is unknown, and its picture position is not given.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        batch_size, length = input_ids.shape
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(seen, seen + length, device=input_ids.device)[None]
        if picture_position_ids is None:
            picture_position_ids = self._picture_positions(input_ids, past_key_values)
        if past_key_values is not None:
            last, number = picture_position_ids[:, -1], past_key_values.get_seq_length() + length - 1
            has_opener = (last > 0) | (input_ids[:, -1] == self.config.vocabulary.opener(Role.BASE))
            setattr(past_key_values, LAST_OPENER, torch.where(has_opener, number - last, -1))
        routing = IndexRouting.of(input_ids, self.config.text_vocab_size)
        text_ids, visual_ids = routing.split(input_ids)
        _, in_picture = routing.split(picture_position_ids)
        text, visual = self.embed_tokens(text_ids), self.embed_visual(visual_ids, in_picture)
        probe = text.new_empty(()).expand(batch_size, length, 1)
        mask = create_causal_mask(self.config, probe, attention_mask, past_key_values, position_ids)
        rotary = self.rotary_emb(text, position_ids)
        for layer in self._decoder_layers():
            text, visual = self._run(layer, layer, text, visual, routing, rotary, mask, past_key_values)
        hidden = routing.join(self.norm(text), self.norm(visual))
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _picture_positions(self, ids: Tensor, cache: Cache | None) -> Tensor:
        """Picture positions of ids [B, T]; they continue the count of a picture that began in the cache."""
        opener = self.config.vocabulary.opener(Role.BASE)
        num_before = 0 if cache is None else cache.get_seq_length()
        if not num_before:
            return picture_positions(ids, opener)
        last_opener = getattr(cache, LAST_OPENER, None)
        if last_opener is not None and len(last_opener) == len(ids) and bool((last_opener < num_before).all()):
            return picture_positions_after(ids, opener, num_before, last_opener)
        goes_on = (ids >= self.config.text_vocab_size) & (last_openers(ids, opener) < 0)
        if self.config.picture_position_std and bool(goes_on.any()):
            raise ValueError("input_ids go on with a picture; give picture_position_ids, counted from its opener")
        return picture_positions(ids, opener)

    def forward_streams(
        self,
        text_ids: Tensor,
        visual_ids: Tensor,
        text_positions: Tensor,
        visual_positions: Tensor,
        attention_mask: Any,
    ) -> tuple[Tensor, Tensor]:
        """Runs rows that hold all text, then all pictures, independent of their order in the samples.

        Ids and positions are int64 [B, Tt] and [B, Tv]; the mask runs over Tt + Tv queries and keys (see
        `pipeline.model.attention`). Returns the final hidden states [B, Tt, D] and [B, Tv, D].
        """
        text, visual = self.embed_tokens(text_ids), self.embed_visual(visual_ids)
        rotary = self.rotary_emb(text, torch.cat([text_positions, visual_positions], dim=1))
        routing = StreamRouting(text_ids.shape[1])
        for layer in self._decoder_layers():
            text, visual = self._run(layer, layer, text, visual, routing, rotary, attention_mask)
        return self.norm(text), self.norm(visual)

    @torch.no_grad()
    def forward_prefix(
        self, text_ids: Tensor, position_ids: Tensor, attention_mask: Any
    ) -> tuple[Tensor, list[KeyValue]]:
        """Runs text that depends on frozen weights only: ids [B, Tt] to [B, Tt, D] and each layer's keys and values."""
        text = self.embed_tokens(text_ids)
        rotary = self.rotary_emb(text, position_ids)
        prefix = []
        for layer in self._decoder_layers():
            text, key_value = layer.forward_text(text, rotary, attention_mask)
            prefix.append(key_value)
        return self.norm(text), prefix

    def forward_after_prefix(
        self, visual_ids: Tensor, prefix: list[KeyValue], position_ids: Tensor, attention_mask: Any
    ) -> Tensor:
        """Runs pictures after their text: joint ids [B, Tv] to [B, Tv, D]. The mask covers Tt + Tv keys."""
        visual = self.embed_visual(visual_ids)
        rotary = self.rotary_emb(visual, position_ids)
        for layer, key_value in zip(self._decoder_layers(), prefix, strict=True):
            visual = self._run(layer, layer.forward_visual, visual, key_value, rotary, attention_mask)
        return self.norm(visual)

    def compile_layers(self, partitioned: bool = False) -> None:
        """Compiles every layer's passes; if ZeRO-3 has `partitioned` the parameters, only what is between products."""
        for layer in self._decoder_layers():
            if partitioned:
                layer.compile_between_products()
            else:
                layer.compile_passes()

    def _decoder_layers(self) -> list[MarsDecoderLayer]:
        return cast(list[MarsDecoderLayer], list(self.layers))

    def _run(self, layer: MarsDecoderLayer, function: Callable, *inputs: Any) -> Any:
        if self.gradient_checkpointing and self.training and layer.layer_idx % self.checkpoint_every == 0:
            # Nothing in a layer is random.
            return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return function(*inputs)
