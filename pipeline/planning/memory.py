"""Memory of a rank in training, by component, from configurations alone.

Weights and optimizer follow from parameter counts and DeepSpeed's partitioning; activations from the tensors that
autograd keeps, counted one by one in `layer_bytes` (a test compares with the tensors kept on a CPU). Fused kernels and
`torch.compile` keep less; the allocator's fragmentation is not included.

Letters: T trained and F frozen parameters, W ranks, e bytes of an element in the model's dtype, D hidden size, I the
FFN's size, H query heads and G key-value heads of size d.
"""

from dataclasses import dataclass, fields

from pipeline.config.model_sizes import LOSS_CHUNK_BYTES, ModelSizes
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind
from pipeline.config.zero import ZeroConfig
from pipeline.planning.flops import ParameterCounts, expert_parameters, recomputed_share

ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's default `sub_group_size`, which the project leaves: ZeRO-3 updates so many elements at once."""
RUNTIME_BYTES = 3_000_000_000
"""Assumed on a GPU: the CUDA context, cuBLAS and NCCL buffers, fragmentation."""
GRADIENTS_OF_LAYER = {"sdpa": 0.5, "eager": 1.5}
"""Maximum gradients in a layer's backward pass, as a share of what the layer keeps. Measured on a CPU (a test)."""


@dataclass(frozen=True)
class RowShape:
    """One kind's part of a micro-step on one rank: `rows` with text [rows, text_length] and pictures [rows,
    visual_length], of which `labels` positions have a label."""

    kind: Kind
    rows: int
    text_length: int
    visual_length: int
    labels: int

    @property
    def text_tokens(self) -> int:
        """Text positions of the micro-step, with padding."""
        return self.rows * self.text_length

    @property
    def visual_tokens(self) -> int:
        """Picture positions of the micro-step, with padding."""
        return self.rows * self.visual_length


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one rank. `runtime` is always held, `start` until the model is partitioned. After that the next four
    fields are held, together with either `update`, in the optimizer's step, or a micro-step's: `activations`,
    `gathered`, `reduce_buckets`, and the larger one of `head`, when the loss is computed, and `layer`, after that."""

    start: int
    runtime: int
    frozen_weights: int
    trained_weights: int
    gradients: int
    master_and_moments: int
    activations: int
    layer: int
    gathered: int
    reduce_buckets: int
    head: int
    update: int

    @property
    def states(self) -> int:
        """Weights, gradients, and the optimizer's state."""
        return self.frozen_weights + self.trained_weights + self.gradients + self.master_and_moments

    @property
    def peak(self) -> int:
        """Maximum bytes held at once."""
        micro_step = self.activations + self.gathered + self.reduce_buckets + max(self.head, self.layer)
        return self.runtime + max(self.start, self.states + max(micro_step, self.update))

    def by_component(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def memory_plan(
    config: ModelSizes,
    counts: ParameterCounts,
    stage: StageConfig,
    zero: ZeroConfig,
    world_size: int,
    shapes: list[RowShape],
    use_gpu: bool,
) -> MemoryPlan:
    """The memory of one rank.

    - `start`: e (T + F). DeepSpeed moves the whole model to the device and partitions it there.
    - `frozen_weights`: e F, over W under ZeRO-3 unless `frozen_whole`.
    - `trained_weights`: e T, over W under ZeRO-3. A secondary partition takes e times all
      partitioned parameters over its size in addition.
    - `gradients`: 4 T / W, accumulated in float32.
    - `master_and_moments`: 12 T / W, float32 weights and AdamW's two moments; 16 T / W with their moving average.
    - `activations`: see `activation_bytes`.
    - `layer`: see `layer_backward_bytes`.
    - `gathered`: under ZeRO-3, e times the partitioned parameters, at most `max_live_parameters`, at least the largest
      module. torch's own linear layers (`saving_linear`) keep those of layers that are neither recomputed nor compiled.
    - `reduce_buckets`: 2 e times `reduce_bucket_size`, at most T: gradients on their way to the rank that keeps them.
    - `head`: see `head_bytes`.
    - `update`: 4 T / W, the gradients once more as DeepSpeed flattens them; under ZeRO-3 one sub-group of them.

    Args:
        config: the model.
        counts: its `count_parameters`.
        stage, zero: settings of the stage and of partitioning.
        world_size: W.
        shapes: shapes of the largest micro-step, one per kind.
        use_gpu: include `RUNTIME_BYTES`, and take the loss's chunks of a GPU.
    """
    element = element_bytes(zero.dtype)
    trained, frozen = counts.trainable, counts.total - counts.trainable
    partitioned = zero.zero_stage == 3
    gatherable = (trained + (0 if zero.frozen_whole else frozen)) if partitioned else 0
    live = max(zero.max_live_parameters, largest_module(config, zero.frozen_whole, zero.whole_layers))
    if not zero.saving_linear and not stage.compile_layers:
        live += int(trained * (1 - recomputed_share(config, stage.checkpoint_every_layers)))
    live = min(gatherable, live)
    own, size = -(-trained // world_size), zero.secondary_partition(world_size)
    secondary = -(-gatherable // size) if size > 1 else 0
    return MemoryPlan(
        start=element * counts.total,
        runtime=RUNTIME_BYTES if use_gpu else 0,
        frozen_weights=element * (-(-frozen // world_size) if partitioned and not zero.frozen_whole else frozen),
        trained_weights=element * (own + secondary if partitioned else trained),
        gradients=4 * own,
        master_and_moments=(16 if stage.ema_decay else 12) * own,
        activations=activation_bytes(config, stage, zero.dtype, shapes),
        layer=layer_backward_bytes(config, stage, zero.dtype, shapes),
        gathered=element * live,
        reduce_buckets=2 * element * min(zero.reduce_bucket_size, trained),
        head=head_bytes(config, stage, zero.dtype, shapes, use_gpu),
        update=4 * min(own, SUB_GROUP_ELEMENTS) if partitioned else 4 * own,
    )


def element_bytes(dtype: str) -> int:
    """Bytes of an element (e) by the dtype's name in torch."""
    return ELEMENT_BYTES[dtype]


def largest_module(config: ModelSizes, frozen_whole: bool, whole_layers: bool) -> int:
    """Elements of the largest of what is gathered as one: the head, or a layer. With `frozen_whole`, without their
    text sides."""
    text = 0 if frozen_whole else config.text_vocab_size
    head = config.hidden_size * (config.vocabulary.num_visual + text)
    heads = config.num_attention_heads + config.num_key_value_heads
    attention = 2 * config.hidden_size * heads * config.head_size
    expert = attention + 3 * config.hidden_size * config.intermediate_size
    layer = expert if frozen_whole else 2 * expert
    return max(head, layer if whole_layers else 0)


def layer_bytes(config: ModelSizes, shape: RowShape, attention: str, dtype: str) -> int:
    """Bytes that autograd keeps for one layer that is not recomputed.

    Per visual position: float32 input and root mean square of two norms, 8D + 8; the normed inputs of the trained
    projections and of the FFN, 2eD; the FFN's gate, its activation, its other half and their product, 4eI. Per text
    position with a gradient: 8D + 8 and 3eI, because inputs of frozen matrices are not kept. A prefix keeps nothing.
    Attention: queries eHd per query; keys and values 2eHd per key (2eGd for FlexAttention, which does not repeat them);
    the output eHd and softmax statistics 4H per query; the output once more for the trained projection, if it is sliced
    from several joint rows. `sdpa` also keeps the mask in the model's dtype, e per pair of positions. `eager` keeps the
    softmax instead of statistics, 4H per pair, and a copy in the model's dtype if that is not float32, eH. Norms of
    queries and keys keep their float32 input and root mean square, 4d + 4 per head, and where they are trained the
    normed head, ed.
    """
    element, hidden, heads = element_bytes(dtype), config.hidden_size, config.num_attention_heads
    head_size, width = config.head_size, heads * config.head_size
    prefix, is_eager = shape.kind.has_text_prefix, attention == "eager"
    text, visual = (0 if prefix else shape.text_tokens), shape.visual_tokens
    norms = 8 * hidden + 8
    kept = visual * (norms + 2 * element * hidden + 4 * element * config.intermediate_size)
    kept += text * (norms + 3 * element * config.intermediate_size)

    queries, keys = text + visual, shape.text_tokens + shape.visual_tokens
    pairs = queries * (shape.text_length + shape.visual_length)
    key_heads = config.num_key_value_heads if attention == "flex_attention" else heads
    kept += queries * element * width + keys * 2 * element * key_heads * head_size
    if not is_eager:
        kept += queries * (element * width + 4 * heads)
    is_sliced = is_eager or (not prefix and shape.rows > 1)
    if is_sliced and not config.shared_output_projection:
        kept += visual * element * width
    if config.norms_visual_queries:
        normed = heads + config.num_key_value_heads
        kept += (queries if config.query_key_norm else visual) * normed * (
            4 * head_size + 4
        ) + visual * normed * element * head_size
    if attention == "sdpa":
        kept += element * pairs
    if is_eager:
        kept += heads * pairs * (4 + (0 if dtype == "float32" else element))
    return kept


def activation_bytes(config: ModelSizes, stage: StageConfig, dtype: str, shapes: list[RowShape]) -> int:
    """Bytes that a micro-step keeps for its backward pass.

    For every kind: `layer_bytes` of each layer, or only its input (eD per position with a gradient) if
    `checkpoint_every_layers` recomputes it, and then the keys and values of a text prefix, 2eGd; the final norm's
    4D + 4.
    """
    element, hidden, layers = element_bytes(dtype), config.hidden_size, config.num_hidden_layers
    every = stage.checkpoint_every_layers
    recomputed = -(-layers // every) if every else 0
    key_value = 2 * element * config.num_key_value_heads * config.head_size
    kept = 0
    for shape in shapes:
        prefix = shape.kind.has_text_prefix
        positions = shape.visual_tokens + (0 if prefix else shape.text_tokens)
        layer = layer_bytes(config, shape, stage.attention, dtype)
        kept += (layers - recomputed) * layer + recomputed * positions * element * hidden
        kept += positions * (4 * hidden + 4) + (recomputed * shape.text_tokens * key_value if prefix else 0)
    return kept


def layer_backward_bytes(config: ModelSizes, stage: StageConfig, dtype: str, shapes: list[RowShape]) -> int:
    """Bytes of the fullest moment in the backward pass of the last layers, on top of `activation_bytes`.

    The gradients of the layer's outputs, eD a position; a kind's activations, if they are recomputed; and what its
    gradients take inside of the layer, see `_gradient_bytes`. The final norm's activations are freed by then. The kinds
    run one after the other, the last one first. The gradients of the layer's weights wait for all kinds.
    """
    element, hidden, every = element_bytes(dtype), config.hidden_size, stage.checkpoint_every_layers
    of_kinds = [layer_bytes(config, shape, stage.attention, dtype) for shape in shapes]
    waiting = element * expert_parameters(config) // config.num_hidden_layers
    # The layers after the last one that is recomputed come first, with all activations. They let go of them.
    later = (config.num_hidden_layers - 1) % every if every else config.num_hidden_layers
    moments = [0]
    for number, (shape, of_kind) in enumerate(zip(shapes, of_kinds, strict=True)):
        own = _gradient_bytes(config, shape, stage.attention, element, of_kind, others_wait=number > 0)
        own += waiting if number + 1 < len(shapes) else 0
        if later:
            moments.append(own - sum(of_kinds[number + 1 :]))
        if every:
            moments.append(own + of_kind - later * sum(of_kinds))
    positions = sum(shape.visual_tokens + (0 if shape.kind.has_text_prefix else shape.text_tokens) for shape in shapes)
    return max(moments) + positions * (element * hidden - 4 * hidden - 4)


def _gradient_bytes(
    config: ModelSizes, shape: RowShape, attention: str, element: int, of_kind: int, others_wait: bool
) -> int:
    """Bytes of a kind's gradients inside of a layer, at most; `of_kind` is its `layer_bytes`.

    For FlexAttention it is the FFN: the gradient of the product of its halves, eI a picture's position. Then that of
    one of its matrices, eID, or those of both halves, after which the product has been freed; both if other kinds come
    after this one, because the matrix waits for them. And the gradient of the layer's output once more as a contiguous
    tensor, if it was sliced from several joint rows. Other attentions take more, a share of what the layer keeps.
    """
    if attention in GRADIENTS_OF_LAYER:
        return int(GRADIENTS_OF_LAYER[attention] * of_kind)
    half = element * config.intermediate_size * shape.visual_tokens
    matrix = element * config.intermediate_size * config.hidden_size
    is_sliced = not shape.kind.has_text_prefix and shape.rows > 1
    sliced = element * config.hidden_size * shape.visual_tokens if is_sliced else 0
    return half + (half + matrix if others_wait else max(half, matrix)) + sliced


def head_bytes(config: ModelSizes, stage: StageConfig, dtype: str, shapes: list[RowShape], use_gpu: bool) -> int:
    """Bytes of the loss's fullest moment, on top of `activation_bytes`.

    The normed hidden states of all kinds, eD a position, and those of one kind joined; hidden states at its labels and
    their gradients, 2eD. For the R visual rows that the head normalises over there is the gradient in float32, 4RD,
    while a chunk's softmax is made, and (8 + e) RD while the chunk's part, converted, is added to it. A chunk has
    logits in the model's dtype, their softmax in float32 (on a CPU also the logits in float32), then their gradient in
    the model's dtype. Heads that are done keep gradients: eD a label, and eRD.
    """
    element, hidden = element_bytes(dtype), config.hidden_size
    chunk = LOSS_CHUNK_BYTES["cuda" if use_gpu else "cpu"] // 4
    softmax = element + (4 if use_gpu or element == 4 else 8)
    most = kept = 0
    for shape in shapes:
        of_kind = element * hidden * (shape.text_tokens + shape.visual_tokens + 2 * shape.labels)
        for text_rows, rows in _heads(config, stage, shape.kind):
            logits, weight = min(chunk, shape.labels * (text_rows + rows)), rows * hidden
            adding = (4 + element) * weight + (4 + 2 * element) * logits
            most = max(most, kept + of_kind + 4 * weight + max(softmax * logits, adding))
            kept += element * weight
        kept += element * hidden * shape.labels
    return most + element * hidden * sum(shape.text_tokens + shape.visual_tokens for shape in shapes)


def _heads(config: ModelSizes, stage: StageConfig, kind: Kind) -> list[tuple[int, int]]:
    """Text and visual rows of each head that a kind runs."""
    text, visual = config.text_vocab_size, config.vocabulary.num_visual
    if stage.normalisation == "joint":
        return [(text, visual)]
    borders = (text, visual - config.codebook_size)
    return [borders, (0, config.codebook_size)] if kind.predicts_codes else [borders]
