"""FLOP and parameter counts, from a micro-batch's content and the model's configuration."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config.model_sizes import ModelSizes
from pipeline.data.batch_work import Counted
from tokenization.config.pixel_shuffle import FIRST_PATCH_PX
from tokenization.config.vqgan import VqganConfig


@dataclass(frozen=True)
class Flop:
    """Floating-point operations of a forward and backward pass, recomputation not counted."""

    matrices: float
    attention: float

    @property
    def total(self) -> float:
        return self.matrices + self.attention


@dataclass(frozen=True)
class ParameterCounts:
    """Parameter counts of a model: total, trainable, and active for a visual position (one expert of each layer with
    the norms, and the visual head's rows for codes; embeddings are only looked up)."""

    total: int
    trainable: int
    active: int


def count_parameters(config: ModelSizes) -> ParameterCounts:
    """Counts parameters from the sizes alone; a test compares with the model."""
    hidden, layers, visual_rows = config.hidden_size, config.num_hidden_layers, config.vocabulary.num_visual
    head_size, heads = config.head_size, config.num_attention_heads
    biases = layers * head_size * (heads + 2 * config.num_key_value_heads) if config.qkv_bias else 0
    query_key_norms, output_projections = 2 * layers * head_size, layers * heads * head_size * hidden
    text_expert = expert_parameters(config) + biases + (query_key_norms if config.query_key_norm else 0)
    # A shared output projection belongs to the text expert, and visual positions use it, too.
    used_by_pictures = expert_parameters(config) + biases + (query_key_norms if config.norms_visual_queries else 0)
    visual_expert = used_by_pictures - (output_projections if config.shared_output_projection else 0)
    norms = (2 * layers + 1) * hidden
    text_tables = config.text_vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    trainable = visual_expert + 2 * visual_rows * hidden
    return ParameterCounts(
        total=trainable + text_expert + norms + text_tables,
        trainable=trainable,
        active=used_by_pictures + norms + config.codebook_size * hidden,
    )


def expert_parameters(config: ModelSizes) -> int:
    """Matrix elements that one token uses in one expert, over all layers: q, k, v, o and the FFN's three."""
    attention = config.hidden_size * config.head_size * 2 * (config.num_attention_heads + config.num_key_value_heads)
    return config.num_hidden_layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def flop_of(batch: Counted, config: ModelSizes, normalisation: str = "state") -> Flop:
    """FLOP of a micro-batch, without padding. N is `expert_parameters`.

    A visual token costs 6N: forward, gradient of its input, gradient of the weights. A text token costs 4N, because its
    weights are frozen, and 2N in a prefix without a backward pass. A shared output projection is frozen for visual
    tokens, too. Attention has two products per pair of a query and a key that it sees: 4 * heads * head size * layers
    forward, twice that backward. The head is computed at labels only: 6 FLOP per visual weight, 4 per text weight.
    """
    work, hidden, parameters = batch.work, config.hidden_size, expert_parameters(config)
    prefix, width = batch.kind.has_text_prefix, config.num_attention_heads * config.head_size
    matrices = 6.0 * parameters * work.visual_tokens + (2.0 if prefix else 4.0) * parameters * work.text_tokens
    if config.shared_output_projection:
        matrices -= 2.0 * hidden * width * config.num_hidden_layers * work.visual_tokens
    num_text, num_codes = batch.num_text_labels, batch.num_code_labels
    vocabulary = config.vocabulary
    if normalisation == "joint":
        per_label = 6.0 * vocabulary.num_visual + 4.0 * config.text_vocab_size
        matrices += hidden * per_label * (num_text + num_codes)
    else:
        matrices += 4.0 * hidden * config.text_vocab_size * num_text + 6.0 * hidden * config.codebook_size * num_codes
    pair = 4.0 * width * config.num_hidden_layers
    return Flop(matrices, pair * (3 * work.visual_pairs + (1 if prefix else 3) * work.text_pairs))


def recomputed_share(config: ModelSizes, every: int) -> float:
    """Share of the layers that gradient checkpointing of every n-th layer (0: none) recomputes."""
    return -(-config.num_hidden_layers // every) / config.num_hidden_layers if every else 0.0


def recomputed_flop_of(batch: Counted, config: ModelSizes, every: int) -> float:
    """FLOP that gradient checkpointing of every n-th layer (0: none) repeats for a micro-batch.

    These are the layers' forward pass: 2N per token and one of attention's three parts. The text of a prefix is not
    included, because it has no backward pass. The visual FFN's last product is not included either, because torch stops
    after what the backward pass needs. `flop_of` does not count these FLOP, so the hardware's utilization is above MFU
    by this share.
    """
    work, share = batch.work, recomputed_share(config, every)
    text_tokens, text_pairs = (0, 0) if batch.kind.has_text_prefix else (work.text_tokens, work.text_pairs)
    last_products = config.num_hidden_layers * config.hidden_size * config.intermediate_size
    matrices = 2.0 * expert_parameters(config) * (work.visual_tokens + text_tokens)
    matrices -= 2.0 * last_products * work.visual_tokens
    width = config.num_attention_heads * config.head_size
    pairs = 4.0 * width * config.num_hidden_layers * (work.visual_pairs + text_pairs)
    return share * (matrices + pairs)


def encoder_flop_of(config: VqganConfig, size_px: int) -> float:
    """FLOP of the convolutions that encode one picture of `size_px`: two per weight and output position, as counted by
    torch (a test compares). A `VQModel` is taken without attention."""
    convolutions = pixel_shuffle_convolutions if config.architecture == "pixel_shuffle" else vqmodel_convolutions
    flop = 0
    for side, inputs, outputs, kernel in convolutions(config, size_px):
        flop += 2 * side**2 * inputs * outputs * kernel**2
    return float(flop)


Convolution = tuple[int, int, int, int]
"""Side of the output, input channels, output channels, and side of the kernel."""


def pixel_shuffle_convolutions(config: VqganConfig, size_px: int) -> Iterator[Convolution]:
    """The convolutions of a `PixelShuffleNetwork`'s encoder."""
    side, patch = size_px, 3
    for number, (channels, blocks) in enumerate(zip(config.encoder_channels, config.encoder_blocks, strict=True)):
        factor = 2 if number else FIRST_PATCH_PX
        side //= factor
        yield side, patch * factor**2, channels, 1
        for _ in range(2 * blocks):
            yield side, channels, channels, 3
        patch = channels
    yield side, patch, config.latent_channels, 1
    yield side, config.latent_channels, config.latent_channels, 1


def vqmodel_convolutions(config: VqganConfig, size_px: int) -> Iterator[Convolution]:
    """The convolutions of a `VQModel`'s encoder."""
    side, widths, latents = size_px, config.block_out_channels, config.latent_channels
    yield side, 3, widths[0], 3
    before = widths[0]
    for number, channels in enumerate(widths, start=1):
        for _ in range(config.layers_per_block):
            yield from _residual(side, before, channels)
            before = channels
        if number < len(widths):
            side //= 2
            yield side, channels, channels, 3
    yield from _residual(side, before, before)
    yield from _residual(side, before, before)
    yield side, before, latents, 3
    yield side, latents, latents, 1


def _residual(side: int, inputs: int, outputs: int) -> Iterator[Convolution]:
    yield side, inputs, outputs, 3
    yield side, outputs, outputs, 3
    if inputs != outputs:
        yield side, inputs, outputs, 1
