"""FlexAttention as training uses it: its gradients beside sdpa's, the graphs that lengths make, and its speed."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from pipeline.benchmarks.gpu.bench import SMALL_GROUP, GpuBench, first_of_kind
from pipeline.benchmarks.gpu.parts import CUDA_ONLY
from pipeline.benchmarks.gpu.random_batches import high_resolution_batch
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.benchmarks.gpu.varied_attention import varied_attention, visible_lengths
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind
from pipeline.data.collate import MicroBatch
from pipeline.model.layers import MarsDecoderLayer
from pipeline.model.mars import MarsForCausalLM
from pipeline.runtime.torch_private import GRAPH_LIMIT, fail_on_too_many_graphs, graphs_made
from pipeline.training.objective import Objective

LAYERS, LENGTHS, ROUNDS = 2, 20, 10
FLEX, REFERENCE = "flex_attention", "sdpa"


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records each piece by itself: one that fails leaves the others."""
    fail_on_too_many_graphs()
    record.figures(graph_limit=GRAPH_LIMIT)
    with record.piece("gradients"):
        _compare_gradients(bench, record)
    with record.piece("graphs"):
        _count_graphs(bench, record)
    with record.piece("speed"):
        _time_functions(bench, record)


def _compare_gradients(bench: GpuBench, record: Recorder) -> None:
    """Compares loss and gradients of each kind, under recomputation. On a CPU, hidden states alone."""
    model = bench.model(replace(bench.stage, checkpoint_every_layers=1), min(LAYERS, bench.config.num_hidden_layers))
    steps = bench.steps(bench.stage, 1)
    batches = [first_of_kind(steps, kind) for kind in (Kind.TEXT_TO_IMAGE, Kind.CAPTIONING)]
    batches.append(high_resolution_batch(bench, _group_size(bench)))
    for batch in batches:
        name = batch.kind.name.lower()
        if bench.on_gpu:
            (loss, gradients), (expected_loss, expected) = (
                _gradients(model, each, batch) for each in (FLEX, REFERENCE)
            )
            record.figures(
                **{
                    f"{name}_loss_difference": abs(loss - expected_loss) / abs(expected_loss),
                    f"{name}_gradient_difference": _difference(gradients, expected),
                }
            )
        else:
            with torch.compiler.set_stance("force_eager"):
                states, expected = (_states(model, each, batch) for each in (FLEX, REFERENCE))
            record.figures(**{f"{name}_states_difference": _difference(states, expected)})
            record.figures(**{f"{name}_gradient_difference": CUDA_ONLY})


def _gradients(model: MarsForCausalLM, attention: str, batch: MicroBatch) -> tuple[float, list[Tensor]]:
    model.set_attn_implementation(attention)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = Objective(model)([batch]).loss
    return loss.item(), list(torch.autograd.grad(loss, trained))


@torch.no_grad()
def _states(model: MarsForCausalLM, attention: str, batch: MicroBatch) -> list[Tensor]:
    model.set_attn_implementation(attention)
    return list(Objective(model).hidden_states([batch])[0])


def _difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of two tensors, as a share of the expected one's norm."""
    return max(
        float((one.float() - other.float()).norm() / other.float().norm().clamp_min(1e-12))
        for one, other in zip(found, expected, strict=True)
    )


def _group_size(bench: GpuBench) -> int:
    """K of the recipe's stage with next-K-token prediction."""
    if not bench.on_gpu:
        return SMALL_GROUP
    return max(stage.high_resolution_group for stage in bench.recipe.stages)


def _count_graphs(bench: GpuBench, record: Recorder) -> None:
    """Runs steps of varied lengths, and validation; more graphs than the limit are an error."""
    if not bench.on_gpu:
        record.figures(graphs=CUDA_ONLY)
        return
    model = bench.model(bench.stage, min(LAYERS, bench.config.num_hidden_layers))
    objective = Objective(model)
    for micro_steps in bench.steps(bench.stage, LENGTHS):
        for batches in micro_steps:
            objective(batches).loss.backward()
    model.eval()
    with torch.no_grad():
        for micro_steps in bench.steps(replace(bench.stage, micro_batch_size=1), 2):
            for batches in micro_steps:
                for batch in batches:
                    objective([batch])
    record.figures(graphs=graphs_made())


def _time_functions(bench: GpuBench, record: Recorder) -> None:
    """Times forward and backward pass of one layer's attention on a text-to-image batch of the recipe."""
    batch = first_of_kind(bench.steps(bench.stage, 1), Kind.TEXT_TO_IMAGE)
    for attention in (REFERENCE, FLEX):
        if attention == FLEX and not bench.on_gpu:
            record.figures(**{f"{attention}_s": CUDA_ONLY})
            continue
        with record.piece(attention):
            run = _attend(bench, replace(bench.stage, attention=attention), batch)
            record.figures(**{f"{attention}_s": median(bench.seconds(run, ROUNDS, warmup=3))})
    if not bench.on_gpu:
        record.figures(varlen_attn_s=CUDA_ONLY)
        return
    with record.piece("varlen_attn"):
        run = varied_attention(bench, *visible_lengths(batch))
        record.figures(varlen_attn_s=median(bench.seconds(run, ROUNDS, warmup=3)))


def _attend(bench: GpuBench, stage: StageConfig, batch: MicroBatch) -> Callable[[], None]:
    """A layer's attention of the batch's pictures to its text and pictures, with its mask."""
    model = bench.model(replace(stage, compile_layers=False), layers=1)
    mask = Objective(model).packed(batch).attention_mask
    layer = model.model.layers[0]
    assert isinstance(layer, MarsDecoderLayer)
    (rows, num_text), num_visual = batch.text.ids.shape, batch.visual.ids.shape[1]

    def random(heads: int, length: int) -> Tensor:
        shape = (rows, heads, length, layer.head_dim)
        return torch.randn(shape, device=bench.device, dtype=bench.dtype, requires_grad=True)

    config = bench.config
    queries = random(config.num_attention_heads, num_visual)
    keys, values = (random(config.num_key_value_heads, num_text + num_visual) for _ in range(2))

    def run() -> None:
        attended = layer.attend(queries, keys, values, mask)
        torch.autograd.grad(attended, (queries, keys, values), torch.ones_like(attended))

    return run
