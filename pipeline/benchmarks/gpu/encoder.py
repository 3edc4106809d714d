"""The VQ-GAN's encoder: pictures per second and MFU, eager and compiled; and the copies of pictures to the device."""

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch

from pipeline.benchmarks.gpu.bench import GpuBench
from pipeline.benchmarks.gpu.parts import CUDA_ONLY
from pipeline.benchmarks.gpu.recorder import Recorder
from pipeline.benchmarks.step import device_name
from pipeline.config.gpus import peak_flop_per_s
from pipeline.planning.flops import encoder_flop_of
from tokenization.config.vqgan import VqganConfig
from tokenization.vqgan.image_tokenizer import ImageTokenizer
from tokenization.vqgan.model import build_vqgan

SMALL_VQGAN = VqganConfig(block_out_channels=(8, 8, 16), latent_channels=4, codebook_size=64, norm_num_groups=4)
EAGER = ((256, 32), (256, 64), (256, 128), (1024, 2), (1024, 8))
COMPILED = ((256, 32), (256, 128), (1024, 8))
SMALL_EAGER = ((16, 2), (32, 2))
"""Sides in px, and pictures at once."""
ROUNDS = 5
COPIED_BYTES, SMALL_COPIED_BYTES = 64 * 2**20, 2**20


def measure(bench: GpuBench, record: Recorder) -> None:
    """Records every size as it is measured; `mfu` is the highest so far."""
    config = bench.recipe.vqgan if bench.on_gpu else SMALL_VQGAN
    with tempfile.TemporaryDirectory() as folder:
        build_vqgan(config).save_pretrained(folder)
        sizes = [(False, EAGER), (True, COMPILED)] if bench.on_gpu else [(False, SMALL_EAGER)]
        best = 0.0
        for compiled, each in sizes:
            vqgan = ImageTokenizer(Path(folder), bench.device, bench.dtype, compile_encoder=compiled)
            for side, count in each:
                name = f"{'compiled' if compiled else 'eager'}_{side}_px_by_{count}"
                with record.piece(name):
                    rate = _rate(bench, vqgan, side, count)
                    best = max(best, _mfu(bench, rate * encoder_flop_of(config, side)))
                    record.figures(**{f"{name}_pictures_per_s": rate})
                    record.figures(mfu=best if bench.on_gpu and best else CUDA_ONLY)
        if not bench.on_gpu:
            record.figures(compiled=CUDA_ONLY)
    with record.piece("copies"):
        _copies(bench, record)


def _rate(bench: GpuBench, vqgan: ImageTokenizer, side: int, count: int) -> float:
    """Pictures per second from pixels in memory to codes in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return count / median(bench.seconds(lambda: vqgan.encode(pixels), ROUNDS, warmup=2))


def _mfu(bench: GpuBench, flop_per_s: float) -> float:
    peak = peak_flop_per_s(device_name(bench.device))
    return flop_per_s / peak if peak else 0.0


def _copies(bench: GpuBench, record: Recorder) -> None:
    """GB/s of pixels to the device, from memory that is pinned or not."""
    num_bytes = COPIED_BYTES if bench.on_gpu else SMALL_COPIED_BYTES
    pixels = torch.zeros(num_bytes, dtype=torch.uint8)
    record.figures(pageable_gb_per_s=num_bytes / 1e9 / median(bench.seconds(lambda: _copy(bench, pixels), ROUNDS)))
    if not bench.on_gpu:
        record.figures(pinned_gb_per_s=CUDA_ONLY)
        return
    pinned = pixels.pin_memory()
    record.figures(pinned_gb_per_s=num_bytes / 1e9 / median(bench.seconds(lambda: _copy(bench, pinned), ROUNDS)))


def _copy(bench: GpuBench, pixels: torch.Tensor) -> torch.Tensor:
    return pixels.to(bench.device, non_blocking=True, copy=True)
