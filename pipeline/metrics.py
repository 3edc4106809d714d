"""Counting work: the FLOP of a micro-batch from its shapes and the model's configuration."""

from pipeline.collate import MicroBatch
from pipeline.configuration import MarsConfig
from pipeline.sequences import Kind


def expert_parameters(config: MarsConfig) -> int:
    """Matrix elements that one token passes through in one expert, all layers: q, k, v, o and the FFN's three."""
    head_dim = config.hidden_size // config.num_attention_heads
    attention = config.hidden_size * head_dim * 2 * (config.num_attention_heads + config.num_key_value_heads)
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def flop_of(batch: MicroBatch, config: MarsConfig) -> float:
    """Floating-point operations of forward and backward, padding included, recomputation not.

    A visual token costs 6N (forward, and gradients of inputs and weights), a text token 4N where gradients pass
    through it and 2N where they do not; N is `expert_parameters`. Attention counts the masked-in pairs: 4 * layers
    * hidden size a pair forward, twice that backward. Heads count 6 for the trained, 4 for the frozen one a weight.
    """
    parameters, hidden = expert_parameters(config), config.hidden_size
    pair = 4 * config.num_hidden_layers * hidden
    if batch.kind is Kind.TEXT_TO_IMAGE:
        assert batch.text and batch.visual
        flop = 6.0 * parameters * batch.visual.ids.numel() + 2.0 * parameters * batch.text.ids.numel()
        flop += 3 * pair * int(batch.visual.mask.sum()) + pair * int(batch.text.mask.sum())
    else:
        assert batch.joint and batch.routing
        flop = 6.0 * parameters * len(batch.routing.visual_index) + 4.0 * parameters * len(batch.routing.text_index)
        flop += 3.0 * pair * int(batch.joint.mask.sum())
    flop += 6.0 * hidden * config.codebook_size * len(batch.code_labels.index)
    return flop + 4.0 * hidden * config.text_vocab_size * len(batch.text_labels.index)
