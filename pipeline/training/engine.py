"""The DeepSpeed engine, and the only place that knows DeepSpeed's key names."""

import os
import sys
from pathlib import Path
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import nn

from pipeline.checkpoints.engine import PartitionedEngine
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.data.collate import MicroBatch
from pipeline.model.mars import is_visual_table
from pipeline.runtime.deepspeed_private import shared_memory_file
from pipeline.training.objective import MicroLoss, Objective


class Forward(Protocol):
    """An objective, or the engine around one: computes the loss of a micro-step, which has a batch of each kind."""

    def __call__(self, batches: list[MicroBatch], /) -> MicroLoss:
        """The forward pass."""
        ...

    def eval(self) -> object:
        """Switches to evaluation."""
        ...

    def train(self) -> object:
        """Switches back to training."""
        ...


class Engine(PartitionedEngine, Forward, Protocol):
    """What training uses of DeepSpeed's engine."""

    @property
    def module(self) -> Objective:
        """The objective that it trains."""
        ...

    @property
    def dp_world_size(self) -> int:
        """Ranks whose gradients are averaged."""
        ...

    @property
    def skipped_steps(self) -> int:
        """Updates that were not applied, because the gradient's norm was not finite."""
        ...

    def set_gradient_accumulation_boundary(self, is_boundary: bool, /) -> None:
        """Whether the next `step` is the optimizer's."""
        ...

    def backward(self, loss: torch.Tensor, /, *, scale_wrt_gas: bool) -> object:
        """Adds the gradient of the loss."""
        ...

    def step(self) -> None:
        """Ends a micro-step; at a boundary, applies the update."""
        ...

    def get_global_grad_norm(self) -> float | torch.Tensor | None:
        """Norm of the last update's gradient over all ranks, before clipping."""
        ...


def make_engine(objective: Objective, stage: StageConfig, zero: ZeroConfig) -> Engine:
    """Wraps the objective, whose trainable parameters get AdamW, in a DeepSpeed engine.

    There are two parameter groups; `rate_factor` is what each multiplies the stage's learning rate with.

    Call in a process whose `torch.distributed` group is up. The number of micro-steps varies from step to step,
    so the caller sets the accumulation boundary itself.
    """
    put_tools_on_path()
    import deepspeed

    tables: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            (tables if is_visual_table(name) else others).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": others, "rate_factor": 1.0}, {"params": tables, "rate_factor": stage.table_rate_factor}],
        lr=stage.learning_rate,
        betas=stage.adam_betas,
        weight_decay=stage.weight_decay,
        fused=True,  # on a CPU, too: a tenth of the time there
    )
    engine, *_ = deepspeed.initialize(
        model=objective, optimizer=optimizer, config=engine_config(stage, zero), dist_init_required=False
    )
    unlink_shared_memory()
    return cast(Engine, engine)


def unlink_shared_memory() -> None:
    """Takes the name from the memory that CPU ranks of one machine reduce through, 69 MB a rank.

    DeepSpeed never does: of every run it would stay behind in /dev/shm. The ranks keep what they have mapped.
    """
    dist.barrier()  # all have mapped each other's
    shared_memory_file(dist.get_rank()).unlink(missing_ok=True)


def engine_config(stage: StageConfig, zero: ZeroConfig) -> dict[str, Any]:
    """DeepSpeed's configuration. Batch sizes are nominal: a step's real ones come from its plan."""
    zero_section: dict[str, Any] = {"stage": zero.zero_stage, "overlap_comm": torch.cuda.is_available()}
    if zero.zero_stage == 3:
        zero_section |= {
            "stage3_param_persistence_threshold": zero.persistence_threshold,
            "stage3_max_live_parameters": zero.max_live_parameters,
            "stage3_max_reuse_distance": zero.max_live_parameters,
            "stage3_prefetch_bucket_size": zero.prefetch_bucket_size,
        }
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": stage.gradient_clip,
        "zero_optimization": zero_section,
        "bf16": {"enabled": zero.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def accumulate(engine: Engine, loss: torch.Tensor, last: bool) -> None:
    """Backward of one micro-step; `last` makes the next `engine.step()` the optimizer's.

    The loss is already the step's share, so DeepSpeed's average over the ranks is undone.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss * engine.dp_world_size, scale_wrt_gas=False)


def put_tools_on_path() -> None:
    """DeepSpeed builds its CPU op with `ninja`, which lies beside a virtual environment's python."""
    folder = str(Path(sys.executable).parent)
    if folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
