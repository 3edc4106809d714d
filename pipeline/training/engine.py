"""The DeepSpeed engine, and the only module that knows DeepSpeed's key names."""

from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import nn

from pipeline.checkpoints.engine import PartitionedEngine
from pipeline.config.stage import StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.data.collate import MicroBatch
from pipeline.model.layers import MarsDecoderLayer
from pipeline.model.mars import is_visual_table
from pipeline.runtime.compiled_ops import set_up_compilation
from pipeline.runtime.deepspeed_host_time import call_hooks_directly, save_host_time
from pipeline.runtime.deepspeed_private import import_deepspeed, shared_memory_file
from pipeline.training.objective import MicroLoss, Objective


class Forward(Protocol):
    """A training objective, or the engine around it. Computes a micro-step's loss from one batch of each kind."""

    def __call__(self, batches: list[MicroBatch], /) -> MicroLoss: ...

    def eval(self) -> object:
        """Switches to evaluation mode."""
        ...

    def train(self) -> object:
        """Switches to training mode."""
        ...


class Engine(PartitionedEngine, Forward, Protocol):
    """The part of DeepSpeed's engine that training uses."""

    @property
    def module(self) -> Objective:
        """The wrapped objective."""
        ...

    @property
    def dp_world_size(self) -> int:
        """Number of ranks that gradients are averaged over."""
        ...

    @property
    def skipped_steps(self) -> int:
        """Number of updates that were not applied because the gradient norm was not finite."""
        ...

    def set_gradient_accumulation_boundary(self, is_boundary: bool, /) -> None:
        """Tells the engine if the next `step` applies the update."""
        ...

    def backward(self, loss: torch.Tensor, /, *, scale_wrt_gas: bool) -> object:
        """Adds the loss's gradient to the accumulated gradients."""
        ...

    def step(self) -> None:
        """Ends a micro-step. At an accumulation boundary it applies the update."""
        ...

    def get_global_grad_norm(self) -> float | torch.Tensor | None:
        """Returns the gradient norm of the last update over all ranks, before clipping."""
        ...


def make_engine(objective: Objective, stage: StageConfig, zero: ZeroConfig) -> Engine:
    """Wraps the objective in a DeepSpeed engine with AdamW over its trainable parameters.

    There are two parameter groups. Each multiplies the stage's learning rate by its `rate_factor`.

    Needs an initialized `torch.distributed` group. The number of micro-steps varies from step to step, so the caller
    sets the accumulation boundary itself.
    """
    set_up_compilation()
    deepspeed = import_deepspeed()
    from deepspeed.utils import set_z3_leaf_modules

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
        fused=True,  # on a CPU as well: it takes a tenth of the time there
    )
    if zero.zero_stage == 3:
        save_host_time()
    if zero.zero_stage == 3 and zero.whole_layers:
        set_z3_leaf_modules(objective, [MarsDecoderLayer])
    engine, *_ = deepspeed.initialize(
        model=objective, optimizer=optimizer, config=engine_config(stage, zero), dist_init_required=False
    )
    if zero.zero_stage == 3:
        call_hooks_directly(objective)
    unlink_shared_memory()
    return cast(Engine, engine)


def unlink_shared_memory() -> None:
    """Unlinks the shared memory that CPU ranks of one machine reduce through, 69 MB a rank.

    DeepSpeed never unlinks it, so every run would leave it in /dev/shm. The ranks keep their mappings.
    """
    dist.barrier()  # every rank has mapped the others' memory
    shared_memory_file(dist.get_rank()).unlink(missing_ok=True)


def engine_config(stage: StageConfig, zero: ZeroConfig) -> dict[str, Any]:
    """Returns DeepSpeed's configuration. Batch sizes are nominal: the real ones of a step come from its plan."""
    zero_section: dict[str, Any] = {
        "stage": zero.zero_stage,
        "overlap_comm": torch.cuda.is_available(),
        "reduce_bucket_size": zero.reduce_bucket_size,
    }
    if zero.zero_stage == 3:
        zero_section |= {
            "stage3_param_persistence_threshold": zero.persistence_threshold,
            "stage3_max_live_parameters": zero.max_live_parameters,
            "stage3_max_reuse_distance": zero.max_live_parameters,
            "stage3_prefetch_bucket_size": zero.prefetch_bucket_size,
            "zero_hpz_partition_size": zero.secondary_partition(dist.get_world_size()),
            "memory_efficient_linear": zero.saving_linear,
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
        "timers": {"throughput": {"enabled": False}},  # it waits for the device at each forward pass and step
    }


def accumulate(engine: Engine, loss: torch.Tensor, last: bool) -> None:
    """Runs the backward pass of one micro-step. With `last`, the next `engine.step()` applies the update.

    The loss is already this rank's share of the step's loss, so DeepSpeed's average over the ranks is undone.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss * engine.dp_world_size, scale_wrt_gas=False)
