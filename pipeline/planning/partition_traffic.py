"""The collectives of a step by its partitioning, as DeepSpeed 0.19.8 makes them; `jobs/benchmark.py count` counts the
real ones, and a test compares.

Letters: T bytes of the trained weights, L of them in layers, F bytes of the frozen ones, W ranks.
"""

from dataclasses import dataclass

from pipeline.config.model_sizes import ModelSizes
from pipeline.config.zero import ZeroConfig
from pipeline.planning.flops import ParameterCounts
from pipeline.planning.memory import element_bytes
from pipeline.planning.step_time import Traffic

TENSORS_OF_A_LAYER = 10
"""Trained matrices and biases of a layer, each of which ZeRO-3 gathers by itself without `whole_layers`."""


@dataclass(frozen=True)
class MicroStepTraffic:
    """Collectives of one micro-step, in its forward and its backward pass. `first_unit` is what the forward pass
    gathers before it can begin, `last_unit` what the backward pass reduces at its end."""

    forward_gathers: Traffic
    backward_gathers: Traffic
    reductions: Traffic
    first_unit: Traffic
    last_unit: Traffic


def micro_step_traffic(
    config: ModelSizes, counts: ParameterCounts, zero: ZeroConfig, ranks: int, ranks_per_node: int, first: bool
) -> MicroStepTraffic:
    """Returns the collectives of one micro-step. `first` if it is the first one after an update.

    ZeRO-3: the forward pass gathers T (and F unless `frozen_whole`), the backward pass the layers' share of it again,
    but for the last layers, of which `max_live_parameters` stay; the embeddings' and the head's gradients are ready by
    then. A bucket of gradients is reduced at once. With a secondary partition all but the step's first
    gather of each weight stay inside a node. Every micro-step reduces T, each gradient to the rank that keeps it.
    ZeRO-2: every micro-step sums T over all ranks, which moves 2 T; see `update_traffic` for its gather.
    """
    element = element_bytes(zero.dtype)
    layers = config.num_hidden_layers
    trained, frozen = element * counts.trainable, element * (counts.total - counts.trainable)
    tables = element * 2 * config.vocabulary.num_visual * config.hidden_size
    if zero.zero_stage != 3:
        calls = trained / (element * zero.reduce_bucket_size)
        summed = _among(2 * trained, max(1.0, calls), ranks, ranks_per_node, inside=False)
        last = _among(2 * min(trained, element * zero.reduce_bucket_size), 1, ranks, ranks_per_node, inside=False)
        return MicroStepTraffic(Traffic(), Traffic(), summed, Traffic(), last)
    text_tables = element * (1 if config.tie_word_embeddings else 2) * config.text_vocab_size * config.hidden_size
    gathered = trained + (0 if zero.frozen_whole else frozen)
    in_layers = gathered - tables - (0 if zero.frozen_whole else text_tables)
    units = 1 if zero.whole_layers else TENSORS_OF_A_LAYER * (1 if zero.frozen_whole else 2)
    has_copy = zero.secondary_partition(ranks) > 1
    unit = in_layers / layers / units
    again = max(0.0, in_layers - element * zero.max_live_parameters)
    reductions = -(-counts.trainable // zero.reduce_bucket_size)
    return MicroStepTraffic(
        forward_gathers=_among(gathered, units * layers, ranks, ranks_per_node, inside=has_copy and not first),
        backward_gathers=_among(again, units * layers, ranks, ranks_per_node, inside=has_copy),
        reductions=_among(trained, reductions, ranks, ranks_per_node, inside=False),
        first_unit=_among(unit, 1, ranks, ranks_per_node, inside=has_copy and not first),
        last_unit=_among(unit, 1, ranks, ranks_per_node, inside=False),
    )


def update_traffic(counts: ParameterCounts, zero: ZeroConfig, ranks: int, ranks_per_node: int) -> Traffic:
    """Returns the collectives of the optimizer's step: ZeRO-2 gathers the updated weights."""
    if zero.zero_stage == 3:
        return Traffic()
    trained = element_bytes(zero.dtype) * counts.trainable
    return _among(trained, max(1.0, counts.trainable / zero.reduce_bucket_size), ranks, ranks_per_node, inside=False)


def _among(num_bytes: float, calls: float, ranks: int, ranks_per_node: int, inside: bool) -> Traffic:
    if ranks == 1:
        return Traffic()
    if inside or ranks <= ranks_per_node:
        return Traffic(inside_bytes=num_bytes, inside_calls=calls)
    return Traffic(across_bytes=num_bytes, across_calls=calls)
