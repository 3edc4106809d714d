"""The parts of the benchmark, in the order in which they are measured. Imports no torch."""

from dataclasses import dataclass
from importlib.util import find_spec

CUDA_ONLY = "CUDA-only"
"""Stands in place of a figure that a CPU cannot give."""


@dataclass(frozen=True)
class Part:
    """A part of the benchmark, which runs in a process of its own.

    Attributes:
        name: for figures and messages.
        share: seconds of a run of ten minutes; a shorter run has the same proportions.
        function: module of this package and function in it, as in `step.measure_recipe`; gets a `GpuBench` and a
            `Recorder`.
        packages: packages without which the part is left out, besides torch and transformers.
    """

    name: str
    share: float
    function: str
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


MACHINE = Part("machine", 10, "machine.measure")
PARTS = (
    MACHINE,
    Part("step", 120, "step.measure_recipe", ("deepspeed",)),
    Part("step_plain", 45, "step.measure_plain"),
    Part("step_zero_2", 40, "step.measure_zero_2", ("deepspeed",)),
    Part("step_zero_2_kept", 40, "step.measure_zero_2_kept", ("deepspeed",)),
    Part("baselines", 90, "baselines.measure"),
    Part("attention", 70, "attention.measure"),
    Part("syncs", 30, "syncs.measure"),
    Part("generation", 60, "generation.measure"),
    Part("head", 10, "head.measure"),
    Part("encoder", 45, "encoder.measure", ("diffusers",)),
    Part("training", 40, "training.measure", ("deepspeed",)),
    Part("copies", 10, "copies.measure"),
)
