"""SemVIE without its heads, as a transformers model: embeddings, layers and the final norm.

Shape letters: B rows, T positions, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.vocabulary import Role
from pipeline.model.layers import MarsDecoderLayer, RotaryEmbedding, VisualEmbedding
from pipeline.model.passes import JointPass, PrefixPass
from pipeline.model.picture_positions import last_openers, picture_positions, picture_positions_after
from pipeline.model.routing import IndexRouting, StreamRouting
from pipeline.runtime.stopwatch import Stopwatch
from pipeline.runtime.transformers_private import attention_of
from pipeline.weights.visual_only import with_language_expert

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

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """See transformers. If the folder holds the visual expert alone, also loads the language expert that it names.

        `language_expert_source`, a folder or a hub name, gives another location of the language expert.

        Raises:
            InputError: the language expert is not available, or is a different one.
        """
        config = kwargs.pop("config", None)
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, config=config, **kwargs)
        if config is None:
            config, kwargs = MarsConfig.from_pretrained(
                pretrained_model_name_or_path, return_unused_kwargs=True, **kwargs
            )
        if config.language_expert_source:
            state = with_language_expert(str(pretrained_model_name_or_path), config)
            config.language_expert_source = config.language_expert_sha256 = ""  # the model now holds both experts
            return super().from_pretrained(None, *args, config=config, state_dict=state, **{"dtype": "auto"} | kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch whose rows hold all text, then all pictures, independent of their order in the samples.

    Attributes:
        text_ids, visual_ids: joint ids, int64 [B, Tt] and [B, Tv].
        text_positions, visual_positions: positions in the samples, in the same shapes.
        attention_mask: over all Tt + Tv keys (see `pipeline.model.attention`); its queries are the pictures if there is
            a `text_mask`, else text and pictures.
        text_mask: mask among the text, if in every sample the text comes before the pictures; else None.
        name: for the stopwatch.
    """

    text_ids: Tensor
    visual_ids: Tensor
    text_positions: Tensor
    visual_positions: Tensor
    attention_mask: Any
    text_mask: Any = None
    name: str = ""


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
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        picture_position_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> BaseModelOutputWithPast:
        """Runs text and pictures in any order.

        Args:
            input_ids: int64 [B, T], joint vocabulary.
            attention_mask: [B, T] with 0 at padding; a position sees itself and all earlier ones.
            position_ids: int64 [B, T]; None continues after the cached positions.
            picture_position_ids: int64 [B, T], position of each visual id in its picture (see `picture_positions`);
                None counts from the openers, including those in the cache.
            use_cache: return a cache; None does what the config says, as in a Qwen2.
            output_hidden_states: also return the embeddings and the states after each layer, the last one normed.
            output_attentions: also return the probabilities of each layer's attention, which must be `eager`.
            inputs_embeds: refused.

        Returns:
            `last_hidden_state` [B, T, D], the cache, and if asked for `hidden_states` and `attentions` [B, H, T, keys].

        Raises:
            ValueError: an id continues a picture whose opener is unknown; or probabilities are asked of another
                attention than `eager`.
            TypeError: embeddings are given in place of ids.
        """
        if inputs_embeds is not None or input_ids is None:
            raise TypeError("MARS chooses the expert of a position by its id: give input_ids, and no inputs_embeds")
        attentions = self._attentions(_or(output_attentions, self.config.output_attentions))
        states: list[Tensor] | None = [] if _or(output_hidden_states, self.config.output_hidden_states) else None
        use_cache = _or(use_cache, self.config.use_cache and not (self.gradient_checkpointing and self.training))
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = _num_seen(past_key_values)
            position_ids = torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device)[None]
        if picture_position_ids is None:
            picture_position_ids = self._picture_positions(input_ids, past_key_values)
        if past_key_values is not None:
            self._keep_opener(past_key_values, input_ids, picture_position_ids)
        routing = IndexRouting.of(input_ids, self.config.text_vocab_size)
        text, visual = self._embedded(routing, input_ids, picture_position_ids)
        mask = self._causal_mask(text, input_ids, attention_mask, past_key_values, position_ids)
        rotary = self.rotary_emb(text, position_ids)
        joint = JointPass(routing, rotary, mask, past_key_values, attentions=attentions)
        text, visual = map(self.norm, self._through_layers([text, visual], [joint], states=states))
        hidden = routing.to(text.device).join(text, visual)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=past_key_values,
            hidden_states=None if states is None else (*states, hidden),
            attentions=None if attentions is None else tuple(attentions),
        )

    def _embedded(self, routing: IndexRouting, ids: Tensor, picture_positions: Tensor) -> tuple[Tensor, Tensor]:
        text_ids, visual_ids = routing.split(ids)
        _, in_picture = routing.split(picture_positions)
        return self.embed_tokens(text_ids), self.embed_visual(visual_ids, in_picture)

    def _causal_mask(self, text: Tensor, ids: Tensor, given: Any, cache: Cache | None, position_ids: Tensor) -> Any:
        if isinstance(given, dict):  # `generate` makes the masks for a static cache
            return given["full_attention"]
        probe = text.new_empty(()).expand(*ids.shape, 1)
        return create_causal_mask(self.config, probe, given, cache, position_ids)

    def _attentions(self, wanted: bool) -> list[Tensor] | None:
        """An empty list for the layers' probabilities, or None if they are not wanted."""
        if not wanted:
            return None
        if attention_of(self) != "eager":
            raise ValueError(
                f"output_attentions needs the probabilities, which {attention_of(self)!r} attention does not give; "
                "call model.set_attn_implementation('eager')"
            )
        return []

    def _keep_opener(self, cache: Cache, ids: Tensor, picture_positions: Tensor) -> None:
        """Keeps with the cache where the last picture's opener was, [B], or -1; see `_picture_positions`."""
        last, number = picture_positions[:, -1], _num_seen(cache) + ids.shape[1] - 1
        has_opener = (last > 0) | (ids[:, -1] == self.config.vocabulary.opener(Role.BASE))
        setattr(cache, LAST_OPENER, torch.where(has_opener, number - last, -1))

    def _picture_positions(self, ids: Tensor, cache: Cache | None) -> Tensor:
        """Picture positions of ids [B, T]; they continue the count of a picture that began in the cache."""
        opener = self.config.vocabulary.opener(Role.BASE)
        num_before = _num_seen(cache)
        if not num_before:
            return picture_positions(ids, opener)
        last_opener = getattr(cache, LAST_OPENER, None)
        if last_opener is not None and len(last_opener) == len(ids) and bool((last_opener < num_before).all()):
            return picture_positions_after(ids, opener, num_before, last_opener)
        goes_on = (ids >= self.config.text_vocab_size) & (last_openers(ids, opener) < 0)
        if self.config.picture_position_std and bool(goes_on.any()):
            raise ValueError("input_ids continue a picture; give picture_position_ids, counted from its opener")
        return picture_positions(ids, opener)

    def forward_packed(
        self, batches: Sequence[PackedBatch], watch: Stopwatch | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Runs micro-batches side by side: each layer runs all of them before the next layer.

        `watch`, if given, gets laps under the batches' names. Returns the final hidden states of each batch,
        [B, Tt, D] and [B, Tv, D].
        """
        streams: list[Tensor] = []
        passes: list[JointPass | PrefixPass] = []
        for batch in batches:
            text, visual = self.embed_tokens(batch.text_ids), self.embed_visual(batch.visual_ids)
            streams += (text, visual)
            passes.append(self._pass_of(batch, text, visual))
            if watch:
                watch.lap(batch.name)
        streams = [self.norm(stream) for stream in self._through_layers(streams, passes, watch)]
        return list(zip(streams[::2], streams[1::2], strict=True))

    def _pass_of(self, batch: PackedBatch, text: Tensor, visual: Tensor) -> JointPass | PrefixPass:
        if batch.text_mask is None:
            positions = torch.cat([batch.text_positions, batch.visual_positions], dim=1)
            rotary = self.rotary_emb(text, positions)
            return JointPass(StreamRouting(text.shape[1]), rotary, batch.attention_mask, name=batch.name)
        return PrefixPass(
            self.rotary_emb(text, batch.text_positions),
            batch.text_mask,
            self.rotary_emb(visual, batch.visual_positions),
            batch.attention_mask,
            batch.name,
        )

    def _through_layers(
        self,
        streams: Sequence[Tensor],
        passes: Sequence[JointPass | PrefixPass],
        watch: Stopwatch | None = None,
        states: list[Tensor] | None = None,
    ) -> Sequence[Tensor]:
        """Runs the layers. `states`, if given, gets the input of each, joined by the first pass."""
        recompute = self.gradient_checkpointing and self.training
        for number, layer in enumerate(self.layers):
            if states is not None and isinstance(first := passes[0], JointPass):
                states.append(first.routing.to(streams[0].device).join(streams[0], streams[1]))
            again = recompute and number % self.checkpoint_every == 0
            streams = layer(*streams, passes=passes, recompute=again, watch=watch)
        return streams

    def compile_layers(self) -> None:
        """Compiles the passes of every layer."""
        for layer in cast(list[MarsDecoderLayer], list(self.layers)):
            layer.compile_passes()


def _or(asked: bool | None, usual: bool) -> bool:
    return usual if asked is None else asked


def _num_seen(cache: Cache | None) -> int:
    """Positions in a cache; a static one has their number as a tensor."""
    return 0 if cache is None else int(cache.get_seq_length())
