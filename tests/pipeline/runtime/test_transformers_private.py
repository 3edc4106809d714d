"""Each name of transformers that is not public is where it was, and does what it is used for."""

import pytest
from transformers import PreTrainedModel, Qwen2Config

from pipeline.model.backbone import MarsPreTrainedModel
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.transformers_private import attention_of
from tests.support.private_names import private_name
from tests.support.small_models import small_config

CAPABILITIES = {
    "_no_split_modules": "device_map keeps a layer on one device",
    "_supports_sdpa": "training on CPUs attends with SDPA",
    "_supports_flex_attn": "training on GPUs attends with FlexAttention",
    "_supports_attention_backend": "any attention implementation may be set",
}


def test_the_attention_that_is_set_is_read_back() -> None:
    name = "transformers.PretrainedConfig._attn_implementation"
    private_name(name, "masks and attention functions are chosen by it")
    assert attention_of(Qwen2Config(attn_implementation="eager")) == "eager", f"{name} is not what is set"
    model = MarsForCausalLM(small_config())
    model.set_attn_implementation("sdpa")
    assert attention_of(model) == attention_of(model.config) == "sdpa"


@pytest.mark.parametrize("name", CAPABILITIES)
def test_transformers_still_asks_the_class_for_what_it_can(name: str) -> None:
    assert hasattr(PreTrainedModel, name), f"transformers no longer reads {name}, with which {CAPABILITIES[name]}"
    assert getattr(MarsPreTrainedModel, name)


def test_the_text_head_is_tied_by_the_name_that_transformers_reads() -> None:
    used_for = "a tied text head stays the embedding when a model is loaded"
    assert hasattr(PreTrainedModel, "_tied_weights_keys"), f"transformers does not read _tied_weights_keys: {used_for}"
    model = MarsForCausalLM(small_config(tie_word_embeddings=True))
    assert model.head.text_weight is model.model.embed_tokens.weight, used_for
