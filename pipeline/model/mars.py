"""`MarsForCausalLM`: SemVIE with its heads as a transformers model. Importing this module registers it with the Auto
classes.

Shape letters: B rows, T positions, D hidden size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from pipeline.architecture.mars_config import MarsConfig
from pipeline.config.model import DEFAULT_OPTIONS, ModelOptions
from pipeline.config.vocabulary import Role
from pipeline.model.backbone import MarsModel, MarsPreTrainedModel
from pipeline.model.head import JointHead
from pipeline.model.picture_positions import picture_positions
from pipeline.weights.initial_rows import embedding_start, head_start, mean_row, num_words
from pipeline.weights.language_expert_formats import text_name, visual_norm, visual_twin
from pipeline.weights.tensor_files import PIECE_ELEMENTS


class MarsForCausalLM(MarsPreTrainedModel, GenerationMixin):
    """SemVIE with its two heads: a frozen one over the text vocabulary, a trained one over the visual rows.

    The visual embedding and head are never tied, even if those of the base are.
    """

    accepts_loss_kwargs = True
    """What transformers' Trainer asks: `num_items_in_batch` may be given."""
    _tied_weights_keys = {"head.text_weight": "model.embed_tokens.weight"}

    def __init__(self, config: MarsConfig) -> None:
        super().__init__(config)
        self.model = MarsModel(config)
        self.head = JointHead(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The text embedding, which is the input embedding for tools of the base model."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """The head over both vocabularies. Its `weight` is a copy, [160,136 at Qwen-7B's size, D]."""
        return self.head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Refused.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("MARS's head is two matrices, head.text_weight and head.visual_weight; set these")

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refused.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("MARS's ids of codes begin where its text vocabulary ends, so that cannot be resized")

    @can_return_tuple
    def forward(  # noqa: PLR0913
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        labels: Tensor | None = None,
        picture_position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits over the joint vocabulary, [B, T, 160,136 at Qwen-7B's size].

        With `labels` (int64 [B, T], `input_ids` with -100 at ignored positions) also the mean cross-entropy of each
        next id over all ids. The pipeline trains with `pipeline.training.objective` instead.

        Args:
            logits_to_keep: only the last so many positions (0: all), or those of an index, int64 [K] or [B, K].
            num_items_in_batch: divide the summed cross-entropy by this instead of by the number of labels.
            input_ids, attention_mask, position_ids, past_key_values, use_cache: see `MarsModel.forward`.
            picture_position_ids, inputs_embeds, output_hidden_states, output_attentions: see `MarsModel.forward`.
        """
        output = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            use_cache,
            picture_position_ids,
            output_hidden_states,
            output_attentions,
            inputs_embeds,
        )
        logits = self.head(_kept(output.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            more = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **more)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See transformers. Picture positions follow from all ids so far if these are given, else from the cache.

        Raises:
            ValueError: `picture_position_ids` are given. They cannot be known for ids that are not generated yet.
        """
        if kwargs.pop("picture_position_ids", None) is not None:
            raise ValueError("generate counts picture_position_ids by itself; leave them out")
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        cache, num_run = inputs.get("past_key_values"), inputs["input_ids"].shape[1]
        if (int(cache.get_seq_length()) if cache is not None else 0) + num_run != input_ids.shape[1]:
            return inputs
        positions = picture_positions(input_ids, self.config.vocabulary.opener(Role.BASE))
        return inputs | {"picture_position_ids": positions[:, -num_run:]}

    @classmethod
    def from_language_expert(
        cls, base: Qwen2ForCausalLM | Qwen3ForCausalLM, codebook_size: int, options: ModelOptions = DEFAULT_OPTIONS
    ) -> "MarsForCausalLM":
        """Makes a starting model: the base's weights in both experts, visual embedding and head from mean rows.

        The means are over the rows up to the last one that the tokenizer uses, without padding rows.

        Args:
            base: the language expert; the model gets its dtype.
            codebook_size: codes of the VQ-GAN.
            options: the recipe's model options.
        """
        config = MarsConfig.from_language_expert(base.config, codebook_size, options)
        with torch.device(base.device):
            model: MarsForCausalLM = AutoModelForCausalLM.from_config(config, dtype=base.dtype)
        text = {name: tensor for name, tensor in base.state_dict().items() if not name.startswith("lm_head")}
        state = {}
        for name, tensor in text.items():
            state[text_name(name)] = tensor
            if ".self_attn." in name or ".mlp." in name:
                state[visual_twin(text_name(name))] = tensor
        state["head.text_weight"] = base.lm_head.weight
        if config.shared_output_projection:
            state = {name: tensor for name, tensor in state.items() if not name.endswith("visual_expert.o_proj.weight")}
        norms = filter(None, (visual_norm(text_name(name), config) for name in text))
        state |= {name: torch.ones(config.head_size) for name in norms}
        rows = config.vocabulary.num_visual
        embedding, head = (
            mean_row(table.detach().cpu().flatten().split(PIECE_ELEMENTS), num_words(len(table)), table.shape[1])
            for table in (base.model.embed_tokens.weight, base.lm_head.weight)
        )
        state["model.embed_visual.weight"] = embedding_start(embedding, rows, config.embedding_noise_std)
        state["head.visual_weight"] = head_start(head, rows)
        model.load_state_dict(state)
        model.tie_weights()
        return model.freeze_language_expert()

    def freeze_language_expert(self) -> "MarsForCausalLM":
        """Makes only the visual parameters trainable."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_trained(name))
        return self

    def keep_frozen_whole(self) -> "MarsForCausalLM":
        """Turns the frozen parameters into buffers, which DeepSpeed neither partitions nor gathers.

        ZeRO-3 then holds the whole language expert on every rank (about 15 GB in bfloat16 at Qwen-7B's size) and
        gathers half as much. Like frozen parameters, these buffers are not saved with a checkpoint. Call it after the
        model was moved to its device: a move would copy a tied text table twice.
        """
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not parameter.requires_grad:
                    delattr(module, name)
                    module.register_buffer(name, parameter.detach(), persistent=False)
        return self


def _kept(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The positions of [B, T, D] that get logits."""
    if isinstance(logits_to_keep, int):
        return hidden[:, -logits_to_keep:]
    rule = "give an int, or int64 [K] or [B, K]"
    if not isinstance(logits_to_keep, Tensor):
        raise TypeError(f"logits_to_keep is a {type(logits_to_keep).__name__}; {rule}")
    index = logits_to_keep.to(hidden.device)
    if index.dtype != torch.int64 or index.dim() not in (1, 2):
        raise ValueError(f"logits_to_keep is {index.dtype} of shape {tuple(index.shape)}; {rule}")
    if index.dim() == 1:
        return hidden[:, index]
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))


def is_trained(name: str) -> bool:
    """True if the parameter of this name belongs to the visual side."""
    return "visual" in name


def is_visual_table(name: str) -> bool:
    """True if the parameter of this name is the visual embedding or head: one row per code."""
    return name.endswith(("embed_visual.weight", "head.visual_weight"))


AutoConfig.register("mars", MarsConfig)
AutoModel.register(MarsConfig, MarsModel)
AutoModelForCausalLM.register(MarsConfig, MarsForCausalLM)
