"""The work of one rank's device and host in a step: FLOP, bytes of its memory, and seconds of the host, by phase.

Letters: N expert parameters that a token uses (`expert_parameters`), D hidden size, I the FFN's size, e bytes of an
element.
"""

from dataclasses import dataclass

from pipeline.config.model_sizes import ModelSizes
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.planning.flops import ParameterCounts, expert_parameters, recomputed_share
from pipeline.planning.memory import element_bytes
from pipeline.planning.work import KindWork, StageWork

UPDATE_BYTES = 42
"""Bytes of memory that the update moves per parameter of the rank's own part: AdamW reads gradient, weight and two
moments and writes all but the gradient (28), DeepSpeed flattens the gradient (8) and takes its norm (4), and the weight
is written once more in the model's dtype (2)."""
HOST_S = {2: 0.0070, 3: 0.0090}
"""CPU seconds of the host for one layer's forward and backward pass, by ZeRO's stage: `host_over_plain` of
`jobs/benchmark.py count` at 32 layers and both kinds of stage 1, times plain torch's 0.19 s on one thread of an EPYC.
They do not depend on the number of ranks: 1.47 at 64, 1.49 at 256."""


@dataclass(frozen=True)
class PhaseWork:
    """The work of one phase on one rank.

    Attributes:
        products: FLOP of matrix products, with padding and recomputation.
        attention: FLOP of attention on the pairs that are seen.
        moved_bytes: bytes that other kernels read and write in the device's memory.
    """

    products: float = 0.0
    attention: float = 0.0
    moved_bytes: float = 0.0


@dataclass(frozen=True)
class MicroStepWork:
    """One micro-step on one rank."""

    forward: PhaseWork
    backward: PhaseWork


def micro_step_works(config: ModelSizes, stage: StageConfig, work: StageWork, zero: ZeroConfig) -> list[MicroStepWork]:
    """Returns the work of each micro-step of a step, on a rank with an average share.

    The forward pass does 2N FLOP a token and a third of the head's; the backward pass the rest, and what is recomputed.
    A kernel between the products reads and writes every activation once: 14 D + 3 I elements a layer and token forward,
    twice that backward, and once more if the layer is recomputed. `compile_layers` fuses them so; without it each
    operation moves its own, about twice as much.
    """
    works = []
    for number in range(work.grad_accum_steps):
        forward, backward = PhaseWork(), PhaseWork()
        for kind in work.kinds:
            if kind.micro_steps > number:
                ahead, back = _kind_phases(config, stage, kind, element_bytes(zero.dtype))
                forward, backward = _sum(forward, ahead), _sum(backward, back)
        works.append(MicroStepWork(forward, backward))
    return works


def _kind_phases(config: ModelSizes, stage: StageConfig, kind: KindWork, element: int) -> tuple[PhaseWork, PhaseWork]:
    ranks = kind.rows // kind.rows_per_rank
    share = kind.samples / ranks / kind.micro_steps / (1 - kind.padding_fraction)
    tokens = kind.tokens
    prefix = kind.kind.has_text_prefix
    of_layers = 2.0 * expert_parameters(config) * tokens
    head = max(0.0, kind.flop.matrices - of_layers * (3 if prefix else 2)) / 3
    ahead = min(kind.flop.matrices, of_layers + head)
    seen = kind.flop.attention / 3
    layer_elements = (14 * config.hidden_size + 3 * config.intermediate_size) * (1 if stage.compile_layers else 2)
    moved = element * layer_elements * config.num_hidden_layers * tokens
    with_gradient = kind.visual_tokens if prefix else tokens
    again = recomputed_share(config, stage.checkpoint_every_layers)
    forward = PhaseWork(share * ahead, share * seen, share * moved)
    backward = PhaseWork(
        products=share * (kind.flop.matrices - ahead + kind.recomputed_flop - again * seen),
        attention=share * seen * (2 + again),
        moved_bytes=share * moved * with_gradient / tokens * (2 + again),
    )
    return forward, backward


def copied_bytes(gathered: float, reduced: float) -> float:
    """Bytes that DeepSpeed moves in the device's memory around collectives: a gathered weight is copied into place
    (read and written), a gradient is copied into a bucket and divided there (twice)."""
    return 2 * gathered + 4 * reduced


def update_work(counts: ParameterCounts, ranks: int) -> PhaseWork:
    """The update of the rank's own part by AdamW."""
    return PhaseWork(moved_bytes=UPDATE_BYTES * counts.trainable / ranks)


def host_seconds(config: ModelSizes, zero: ZeroConfig) -> float:
    """CPU seconds of a micro-step's forward and backward pass on the machine of `HOST_S`."""
    return config.num_hidden_layers * HOST_S[zero.zero_stage]


def _sum(one: PhaseWork, other: PhaseWork) -> PhaseWork:
    return PhaseWork(
        one.products + other.products, one.attention + other.attention, one.moved_bytes + other.moved_bytes
    )
