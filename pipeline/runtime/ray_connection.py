"""Connecting to Ray: to a cluster that runs, or to one that starts here."""

import logging
import os
import socket

import ray
import ray.data
import torch

from pipeline.runtime.ray_private import hide_data_progress, read_cluster_address
from pipeline.runtime.terminal import say as say
from pipeline.runtime.terminal import say_error as say_error

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_ARENA_MAX": "1",
}
"""glibc's settings (mallopt(3)) for a Ray that a job starts on a machine without a GPU: freed memory stays with the
process. As they come, large tensors are mapped anew and their pages faulted in, about a tenth of the demo's step. Ray
Train runs the loop in a thread, whose own arena would not keep them: one arena for all threads."""


WORKER_OUTPUT = "MARS_WORKER_OUTPUT"
"""Environment variable: 1 shows what Ray's workers and the libraries in them print."""


def connect_to_ray() -> None:
    """Joins the cluster at hand (RAY_ADDRESS, or one that runs on this machine), or starts Ray here."""
    if not ray.is_initialized():
        # A cluster that was killed leaves its address behind, and Ray would wait for it for minutes, again and again.
        address = None if "RAY_ADDRESS" in os.environ or _answers(read_cluster_address()) else "local"
        # The libraries' notices of changes to come are for us, not for whoever runs the job.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
        small = address == "local" and not torch.cuda.is_available()
        if small:
            for name, value in KEEP_FREED_MEMORY.items():
                os.environ.setdefault(name, value)
        ray.init(
            address,
            # The dashboard of a Ray that ends with the job would cost more of a few cores than it shows.
            include_dashboard=False if small else None,
            logging_level=logging.ERROR,
            log_to_driver=os.environ.get(WORKER_OUTPUT, "0") == "1",
        )
    # Jobs report their own progress; Ray Data's tables would bury it.
    ray.data.DataContext.get_current().enable_progress_bars = False
    # What it says of memory is about imports of torch that all workers share.
    ray.data.DataContext.get_current().issue_detectors_config.detectors = []
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    hide_data_progress()


def _answers(address: str | None) -> bool:
    """Whether something listens at `host:port`."""
    host, separator, port = (address or "").rpartition(":")
    if not separator:
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False
