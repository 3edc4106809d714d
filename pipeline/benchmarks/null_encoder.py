"""Benchmarks what a tokenization costs beside its work: the driver, the writers, Ray's own processes."""

import os
import tempfile
import time
from typing import Any

from pipeline.config.benchmarks import TokenizeSettings
from pipeline.launch.tokenization import ProgressReporter
from pipeline.ledger.account import DayLimits
from pipeline.ledger.actor import keep_ledger, new_attempt
from pipeline.runtime.ray_connection import ADDRESS, connect_to_ray
from pipeline.runtime.terminal import say
from tokenization.config.tokenization import TokenizationConfig
from tokenization.job.scaling_benchmark import SINGLE, CpuOfParts, measure_scaling

HEARTBEAT_S = 60.0
"""Of the ledger, as in a run."""


def benchmark_null_encoder(settings: TokenizeSettings) -> dict[str, Any]:
    """Tokenizes simulated pictures with each number of encoders, which answer at once.

    It starts a Ray of its own, because it reads the CPU time of all its processes.
    """
    os.environ[ADDRESS] = "local"
    connect_to_ray(forks_workers=True)
    config = TokenizationConfig(size_px=settings.resolution, encode_batch_size=settings.encode_batch_size)
    readers = settings.null_readers or os.cpu_count() or 1
    measured: dict[int, CpuOfParts] = {}
    with tempfile.TemporaryDirectory() as folder:
        attempt = new_attempt(folder, "benchmark", "tokenize", "", "CPU", DayLimits())
        with keep_ledger(folder, attempt, HEARTBEAT_S, []) as ledger:
            for count in settings.null_encoders:
                report = ProgressReporter(ledger, time.monotonic())
                measured[count] = measure_scaling(
                    count,
                    readers,
                    config,
                    settings.null_picture_px,
                    settings.null_rows,
                    settings.null_shard_rows,
                    report,
                )
                say(f"{count} encoders: {measured[count].images_per_s:.0f} pictures/s")
    return {
        "cores": os.cpu_count(),
        "readers": readers,
        "shard_images": settings.null_shard_rows,
        "picture_px": settings.null_picture_px,
        "driver_busy_per_10k_images_per_s": max(map(driver_busy, measured.values())),
        "driver_idle_busy": max(one.idle["driver"] for one in measured.values()),
        "ceiling_images_per_s": min(one.ceiling_images_per_s for one in measured.values()),
        "by_encoders": {str(count): figures_of(one) for count, one in measured.items()},
    }


def driver_busy(measured: CpuOfParts) -> float:
    """The share of a core that 10,000 more pictures a second take of the driver."""
    return measured.us_per_image("driver") / 1e6 * 10_000


def figures_of(measured: CpuOfParts) -> dict[str, float]:
    """The figures of one number of encoders. CPU is in microseconds a picture, and in cores while nothing happens."""
    figures = {"images_per_s": measured.images_per_s, "driver_busy_per_10k_images_per_s": driver_busy(measured)}
    figures |= {f"{part}_us_per_image": measured.us_per_image(part) for part in measured.cpu_s}
    figures |= {f"{part}_idle_cores": measured.idle[part] for part in SINGLE}
    figures["driver_busy_measured"] = measured.cpu_s["driver"] / measured.seconds
    return figures | {"writers": measured.writers, "ceiling_images_per_s": measured.ceiling_images_per_s}
