"""The machine that a recipe is written for."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from pipeline.config.gpus import GPU_TYPES, memory_bytes, peak_flop_per_s
from pipeline.errors import UsageError
from tokenization.config.cpu import fast_cpu_dtype

LIST_GPUS = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
CPU_FLOP_PER_S = {"bfloat16": 6.5e10, "float32": 2.5e10}
"""FLOP/s of a training step on one core, by dtype. bfloat16: the demo's first stage (docs/recipes.md). float32:
assumed."""


@dataclass(frozen=True)
class Machine:
    """What a run may use.

    Attributes:
        cores: CPU cores.
        gpus: number of GPUs; 0 to train on the cores.
        gpu: their model; empty without one.
    """

    cores: int
    gpus: int = 0
    gpu: str = ""

    def __str__(self) -> str:
        cores = f"{self.cores} CPU core{'s' if self.cores > 1 else ''}"
        return f"{self.gpus} x {self.gpu}, {cores}" if self.gpus else f"{cores}, {self.dtype}"

    @property
    def dtype(self) -> str:
        """The dtype to train and encode in."""
        return "bfloat16" if self.gpus else fast_cpu_dtype()

    @property
    def cpu_flop_per_s(self) -> float:
        """FLOP/s of all cores in a training step."""
        return self.cores * CPU_FLOP_PER_S[self.dtype]


def this_machine(gpus: int | None, gpu: str) -> Machine:
    """The machine that this process runs on.

    Args:
        gpus: number of GPUs to use, whatever is here; None for all that are here.
        gpu: their model, whatever is here; empty for the model that is here.

    Raises:
        UsageError: GPUs are asked for, but their model is not known, or its memory or peak.
    """
    cores = len(os.sched_getaffinity(0))
    here = _gpus_here()
    count = (max(1, len(here)) if gpu else len(here)) if gpus is None else gpus
    if not count:
        return Machine(cores)
    name = gpu or next(iter(here), "")
    if not name or peak_flop_per_s(name) is None or memory_bytes(name) is None:
        known = ", ".join(name for one in GPU_TYPES if one.peak_flop_per_s for name in one.full_names)
        what = f"GPU {name!r} is not in the table of GPUs" if name else "no GPU is on this machine"
        raise UsageError(f"{what}; name the model with --gpu: {known}; or train on CPU cores with --gpus 0")
    return Machine(cores, count, name)


def _gpus_here() -> list[str]:
    """The models of this machine's GPUs, as in `NVIDIA A100-SXM4-80GB`; none where NVIDIA's tool does not answer."""
    if not shutil.which(LIST_GPUS[0]):
        return []
    listed = subprocess.run(LIST_GPUS, capture_output=True, text=True, check=False)
    if listed.returncode:
        return []
    return [_with_memory(*line.rsplit(", ", 1)) for line in listed.stdout.splitlines() if ", " in line]


def _with_memory(name: str, mebibytes: str) -> str:
    """A model's name with the size of its memory where the name alone does not tell it."""
    if memory_bytes(name) is not None or not mebibytes.strip().isdigit():
        return name
    size = round(int(mebibytes) * 2**20 / 1e9)
    sizes = [each for gpu in GPU_TYPES if gpu.name in name for each in gpu.memory_gb]
    near = next((each for each in sizes if abs(each - size) <= 0.1 * each), None)
    return f"{name} {near}GB" if near else name
