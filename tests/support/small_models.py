"""Sizes and configurations of the small models that the tests share."""

from typing import Any

from pipeline.architecture.mars_config import MarsConfig
from pipeline.data.sequences import SequenceBuilder
from pipeline.model.mars import MarsForCausalLM

TEXT_VOCAB, CODEBOOK, END_ID = 300, 32, 299


def small_config(**changes: Any) -> MarsConfig:
    """Returns one model's config, for tests where other kinds of models would add nothing."""
    values: dict[str, Any] = dict(
        text_vocab_size=TEXT_VOCAB, codebook_size=CODEBOOK, hidden_size=32, intermediate_size=64
    )
    values |= dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, picture_position_std=0.05)
    return MarsConfig(**values | changes)


def builder_of(mars: MarsForCausalLM) -> SequenceBuilder:
    return SequenceBuilder(mars.config.vocabulary, {"en": [5, 6, 7], "zh": [8, 9]}, END_ID)
