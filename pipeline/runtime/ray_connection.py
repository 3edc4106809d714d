"""Connects to Ray: joins a running cluster, or starts one here."""

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
process. With the defaults, large tensors are mapped again each time and their pages are faulted in, which takes about a
tenth of the demo's step. All threads use one arena, because the loop runs in a thread of Ray Train, whose own arena
would not keep freed memory."""


WORKER_OUTPUT = "MARS_WORKER_OUTPUT"
"""Environment variable: 1 shows the output of Ray's workers and of the libraries in them."""


def connect_to_ray() -> None:
    """Joins a running cluster (at RAY_ADDRESS, or on this machine), or starts Ray here."""
    if not ray.is_initialized():
        # A killed cluster leaves its address behind, and every job would wait for it for minutes.
        address = None if "RAY_ADDRESS" in os.environ or _answers(read_cluster_address()) else "local"
        # The libraries' deprecation warnings are for this project's developers, not for users.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
        small = address == "local" and not torch.cuda.is_available()
        if small:
            for name, value in KEEP_FREED_MEMORY.items():
                os.environ.setdefault(name, value)
        ray.init(
            address,
            # This Ray ends with the job: its dashboard would take CPU time of a small machine for little use.
            include_dashboard=False if small else None,
            logging_level=logging.ERROR,
            log_to_driver=os.environ.get(WORKER_OUTPUT, "0") == "1",
        )
    # Jobs report their own progress; Ray Data's tables would hide it.
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Its memory warnings count torch's imports, which all workers share.
    ray.data.DataContext.get_current().issue_detectors_config.detectors = []
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    hide_data_progress()


def _answers(address: str | None) -> bool:
    """True if something listens at `host:port`."""
    host, separator, port = (address or "").rpartition(":")
    if not separator:
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False
