"""Everything of transformers that is not public; written against transformers 5.23. No other module names any of it.

`tests/pipeline/runtime/test_transformers_private.py` has a test for each name, which fails if transformers moves or
removes it. The attributes that `MarsPreTrainedModel` sets (such as `_supports_sdpa`) are tested there, too: they are
transformers' documented way to describe a model class, although their names begin with an underscore.
"""

from transformers import PretrainedConfig, PreTrainedModel


def attention_of(model: PreTrainedModel | PretrainedConfig) -> str:
    """The attention implementation that a model or its config is set to: `eager`, `sdpa`, `flex_attention`, ...

    Used to run the function of that name, to make its mask, and to detect that transformers fell back to another one,
    which it only warns about. It is set with the public `set_attn_implementation`.
    """
    config = model if isinstance(model, PretrainedConfig) else model.config
    attention: str = config._attn_implementation
    return attention
