"""The device and the versions, and the rate of a plain matrix product, above which no MFU can be."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import torch

from pipeline.benchmarks.gpu.bench import GpuBench
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.benchmarks.step import device_name
from pipeline.config.gpus import peak_flop_per_s

PACKAGES = ("torch", "triton", "transformers", "deepspeed", "diffusers", "ray")
SIDE, SMALL_SIDE = 8192, 256


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records the device, then times products of random bf16 matrices of 8,192 by 8,192."""
    record.figures(
        device=device_name(bench.device),
        peak_flop_per_s=peak_flop_per_s(device_name(bench.device)),
        python=platform.python_version(),
        nvcc=shutil.which("nvcc") is not None,
        **{package: _version(package) for package in PACKAGES},
    )
    if bench.on_gpu:
        properties = torch.cuda.get_device_properties(bench.device)
        record.figures(memory_bytes=properties.total_memory, capability=f"{properties.major}.{properties.minor}")
    side = SIDE if bench.on_gpu else SMALL_SIDE
    left, right = torch.randn(2, side, side, device=bench.device, dtype=bench.dtype).unbind()
    taken = median(bench.seconds(lambda: left @ right, rounds=10, warmup=3))
    record.figures(matrix_product_flop_per_s=2 * side**3 / taken)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
