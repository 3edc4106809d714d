"""The rates that plans assume for GPUs, hosts and links until a cluster is measured: each is a range with its source.

Nothing here was measured by this project. `jobs/preflight.py` measures the links of a cluster, and `jobs/benchmark.py
gpu` the kernels of a GPU.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.config.gpus import gpu_type_of, memory_bytes_per_s
from pipeline.config.machine_types import MachineType
from pipeline.planning.step_time import LinkRates, Overlap

End = Literal["low", "mid", "high"]
ENDS: tuple[End, ...] = ("low", "mid", "high")
"""Ends of a range: `low` is the slowest case."""


@dataclass(frozen=True)
class Range:
    """Three values of a quantity, for the slowest case, the one in the middle, and the fastest."""

    low: float
    mid: float
    high: float

    def at(self, end: End) -> float:
        return {"low": self.low, "mid": self.mid, "high": self.high}[end]


ACHIEVABLE_PRODUCTS = {"A100": 0.869, "H100": 0.803, "H200": 0.803, "B200": 0.776}
"""Share of the peak that the best shape of a bf16 matrix product reaches, by the first word of the GPU's name: "Maximum
Achievable Matmul FLOPS", measured by S. Bekman, Machine Learning Engineering (github.com/stas00/ml-engineering,
compute/accelerator): A100 271 TFLOP/s, H100 795, B200 1,745."""
PRODUCTS = Range(0.75, 0.85, 0.93)
"""Share of that which the products of a training step reach, whose shapes and clocks are not the best ones. Assumed."""
ATTENTION = Range(0.10, 0.17, 0.25)
"""Share of the peak at which FlexAttention computes the pairs that are seen. FlashAttention 2 reaches about 0.37 of an
H100's peak forward (its paper and FlashAttention 3's); blocks are about half full here. Assumed."""
MEMORY = Range(0.60, 0.75, 0.85)
"""Share of the memory's bandwidth that kernels between the products reach. Assumed."""
INSIDE = Range(0.65, 0.73, 0.78)
"""Share of the bandwidth between the GPUs of a node that collectives reach. A100: 200 to 220 of 300 GB/s
(NVIDIA/nccl-tests, issues 149 and 228)."""
NETWORK = Range(0.50, 0.70, 0.85)
"""Share of the network's bandwidth that collectives reach. Assumed: 25 to 42 of the 50 GB/s of a p4de.24xlarge."""
INSIDE_CALL_S, ACROSS_CALL_S = Range(60e-6, 35e-6, 20e-6), Range(600e-6, 300e-6, 120e-6)
"""Seconds that a collective takes before its bytes move, inside a node and across nodes. Assumed."""
HOST = Range(2.0, 1.4, 1.0)
"""Host seconds of a machine with GPUs over the counted ones. Assumed: an A100's hosts are of 2019 to 2021."""
SLOWDOWN = Range(0.10, 0.05, 0.02)
"""Share by which kernels slow down while collectives run, whose kernels take some multiprocessors. Assumed."""
BETWEEN_STEPS_S = Range(0.10, 0.05, 0.02)
"""Seconds between two steps for what all ranks decide together, and figures that the host waits for. Assumed."""


@dataclass(frozen=True)
class AssumedRates:
    """The rates of a rank's device, per second, and the factor of its host over the counted seconds."""

    products_flop_per_s: float
    attention_flop_per_s: float
    memory_bytes_per_s: float
    host_factor: float


def rates_of(gpu: str, end: End) -> AssumedRates:
    """Returns the assumed rates of a GPU by its name.

    Raises:
        ValueError: the GPU's peak or memory is not known.
    """
    kind, memory = gpu_type_of(gpu), memory_bytes_per_s(gpu)
    if kind is None or memory is None:
        raise ValueError(f"the memory's bandwidth of {gpu!r} is not known")
    achievable = ACHIEVABLE_PRODUCTS.get(kind.name.split()[0], min(ACHIEVABLE_PRODUCTS.values()))
    return AssumedRates(
        products_flop_per_s=kind.peak_flop_per_s * achievable * PRODUCTS.at(end),
        attention_flop_per_s=kind.peak_flop_per_s * ATTENTION.at(end),
        memory_bytes_per_s=memory * MEMORY.at(end),
        host_factor=HOST.at(end),
    )


def links_of(machine: MachineType, ranks: int, end: End) -> LinkRates:
    """Returns the assumed links of `ranks` GPUs on machines of a type.

    Raises:
        ValueError: the speed of its GPUs' links is not known.
    """
    kind = gpu_type_of(machine.gpu)
    if kind is None:
        raise ValueError(f"the links of {machine.gpu!r} are not known")
    return LinkRates(
        ranks=ranks,
        ranks_per_node=machine.gpus,
        inside_bytes_per_s=kind.peer_gb_per_s * 1e9 * INSIDE.at(end),
        between_bytes_per_s=machine.network_bytes_per_s * NETWORK.at(end),
        inside_call_s=INSIDE_CALL_S.at(end),
        across_call_s=ACROSS_CALL_S.at(end),
    )


def overlap_of(end: End) -> Overlap:
    """Returns how well GPUs overlap: gathers and reductions both run while kernels do."""
    return Overlap(slowdown=SLOWDOWN.at(end), between_steps_s=BETWEEN_STEPS_S.at(end))
