"""The environment variables of a training process, as torch.distributed and DeepSpeed read them."""

import os

import torch

from pipeline.runtime.compiled_ops import set_up_compilation
from pipeline.runtime.deepspeed_private import shared_memory_file
from pipeline.runtime.rank import Rank
from pipeline.runtime.shared_memory import remove_with_this_process
from pipeline.runtime.torch_private import fail_on_too_many_graphs


def set_up_process(rank: Rank, device: torch.device) -> None:
    """Sets the variables for the process's rank and device, and the limits of compilation.

    Call it before `torch.distributed` and DeepSpeed start.
    """
    set_up_compilation()
    fail_on_too_many_graphs()
    os.environ |= {
        "RANK": str(rank.rank),
        "WORLD_SIZE": str(rank.world_size),
        "LOCAL_RANK": str(rank.local_rank),
        "LOCAL_SIZE": str(rank.local_world_size),
    }
    if threads := os.environ.get("OMP_NUM_THREADS"):  # Ray sets it, for a forked worker after torch has read it
        torch.set_num_threads(int(threads))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        if "MASTER_PORT" in os.environ:  # a rank that is killed while DeepSpeed starts would leave 69 MB
            remove_with_this_process(shared_memory_file(rank.rank))
