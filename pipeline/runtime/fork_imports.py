"""What the fork server imports for the workers of a training: see `fork_server.py`."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = (
    "google.protobuf.message",
    "grpc",
    "pandas",
    "pyarrow.parquet",
    "boto3",
    "torch.utils.cpp_extension",
    "torch.utils.tensorboard",
    "transformers.models.qwen2.modeling_qwen2",
)
"""In the order in which workers need them. Ray is not among them: it reads its environment variables while it is
imported, and they differ from worker to worker."""
GPU_DEVICES = "/dev/nvidia"


def importing_libraries() -> Iterator[None]:
    """Imports one library after the other. Yields after each.

    Raises:
        RuntimeError: one of them has opened a GPU, which a fork could then not use.
    """
    for name in LIBRARIES:
        importlib.import_module(name)
        _check_no_gpu_is_open()
        yield
    if not Path(f"{GPU_DEVICES}ctl").exists():  # else DeepSpeed asks torch for the GPUs while it is imported
        from pipeline.runtime.deepspeed_private import import_deepspeed

        import_deepspeed()
        yield


def _check_no_gpu_is_open() -> None:
    if opened := [target for target in _open_files() if target.startswith(GPU_DEVICES)]:
        raise RuntimeError(f"{opened[0]} is open: forked workers could not use the GPU")


def _open_files() -> Iterator[str]:
    folder = Path("/proc/self/fd")
    for name in os.listdir(folder):
        try:
            yield os.readlink(folder / name)
        except FileNotFoundError:  # the listing's own
            continue
