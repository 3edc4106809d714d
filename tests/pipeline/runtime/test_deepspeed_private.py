"""Each name of DeepSpeed that is not public is where it was, on real engines of ZeRO-2 and ZeRO-3."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipeline.config.zero import ZeroConfig
from pipeline.runtime.compiled_ops import set_up_compilation
from pipeline.runtime.deepspeed_host_time import _AVAILABLE, _RELEASE, save_host_time
from pipeline.runtime.deepspeed_private import (
    _COORDINATOR,
    _ORDER,
    SHARED_MEMORY_OP,
    shared_memory_file,
)
from pipeline.training.engine import engine_config
from tests.support.checkout import CHECKOUT
from tests.support.private_names import private_name
from tests.support.ranks import STAGE, free_port, join, spawn

SLICES = "checkpoints read and write this rank's part of weights and moments"
LOADING = "a model is loaded that no rank ever holds whole"
RESUMED = "the model follows the weights that a checkpoint has put back"
ORDER = "weights are gathered ahead in the step after a validation, too"
DIRECTLY = "the host's time of a step has no look-up of signatures for each hook of each module"
REPLACED = "the host's time of a step does not grow with the number of ranks"
RELEASED = "a gathered weight is let go by one function"
IMPORTS = """
import sys, torch, torch.distributed as dist
from pipeline.runtime.deepspeed_private import import_deepspeed
import_deepspeed()
from deepspeed.runtime.zero.utils import is_zero_supported_optimizer
import deepspeed.comm
deepspeed.comm.get_rank = lambda: 1
assert is_zero_supported_optimizer(torch.optim.AdamW([torch.zeros(1)]))
assert not {"mlflow", "torch._inductor.compile_fx"} & set(sys.modules)
import mlflow
print(mlflow.__version__)
"""
CLASSES = (
    "deepspeed.runtime.zero.stage3.reduce_scatter_coalesced",
    "deepspeed.runtime.zero.partition_parameters.AllGatherCoalescedHandle.wait",
    "deepspeed.runtime.zero.partition_parameters.ZeroParamStatus.AVAILABLE",
    "deepspeed.runtime.zero.partition_parameters.print_rank_0",
    "deepspeed.runtime.zero.partition_parameters.free_param",
    "deepspeed.runtime.zero.linear.zero3_linear_wrap",
    "deepspeed.runtime.zero.parameter_offload.iter_params",
    "deepspeed.runtime.zero.partitioned_param_coordinator.iter_params",
    f"deepspeed.runtime.zero.partitioned_param_coordinator.PartitionedParameterCoordinator.{_RELEASE}",
    "deepspeed.utils.nvtx.enable_nvtx",
    "deepspeed.runtime.compiler.compile",
    "deepspeed.runtime.zero.muon.original_muon.muon_update",
    "deepspeed.runtime.comm.coalesced_collectives._torch_reduce_scatter_fn",
)
NAMES = {
    "zero3 parameter.ds_tensor": LOADING,
    "zero3 parameter.ds_numel": SLICES,
    "zero3 parameter.ds_shape": "checkpoints have shapes that do not depend on ZeRO",
    "zero3 parameter.ds_persist": "weights that are whole on every rank are compared between the ranks",
    "zero3 parameter.ds_secondary_tensor": "a node's copy of the weights is not that of what they were before",
    "zero3 parameter.ds_zero_param_process_group": RELEASED,
    "zero3 parameter.ds_status": RELEASED,
    "zero3 module.ds_external_parameters": "a module's parameters are listed once",
    f"zero3 coordinator.{_AVAILABLE}": RELEASED,
    "zero3 parameter.ds_active_sub_modules": "weights stay gathered while sample pictures are drawn",
    "zero3 parameter.convert_to_zero_parameters": LOADING,
    "zero3 optimizer.fp32_partitioned_groups_flat": SLICES,
    "zero3 optimizer.grad_position": SLICES,
    "zero3 optimizer.get_param_id": SLICES,
    "zero3 optimizer.optimizer": SLICES,
    "zero3 optimizer.invalidate_secondary_tensor": RESUMED,
    "zero3 optimizer.checkpoint_event_prologue": RESUMED,
    "zero3 optimizer._reassign_or_swap_out_partitioned_parameters": RESUMED,
    "zero3 optimizer.checkpoint_event_epilogue": RESUMED,
    "zero2 optimizer.single_partition_of_fp32_groups": SLICES,
    "zero2 optimizer.optimizer": SLICES,
    "zero2 optimizer.update_lp_params": RESUMED,
    "zero2 parameter._hp_mapping": SLICES,
    "zero2 mapping.get_hp_fragment_address": SLICES,
    "zero2 mapping.lp_fragment_address": SLICES,
    "zero2 mapping.param_group_index": SLICES,
    "zero3 module.pre_bwd_fn": DIRECTLY,
    "zero3 module.post_bwd_fn": DIRECTLY,
    "zero3 optimizer.parameter_offload": ORDER,
    "zero3 coordinator._clean_inflight_param_registry": ORDER,
    "zero3 coordinator._clear_trace_structures": ORDER,
    "zero3 coordinator.is_complete_trace": ORDER,
    "zero3 coordinator.reset_step": ORDER,
    **{f"zero3 coordinator.{_COORDINATOR}{name}": ORDER for name in _ORDER},
    "shared memory file": "69 MB a rank would stay in /dev/shm behind every run on CPUs",
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Those of `NAMES` that engines of one rank have."""
    result = tmp_path_factory.mktemp("engines") / "there"
    spawn(_look, 1, free_port(), result)
    return set(result.read_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_of_deepspeed_is_where_it_was(name: str, there: set[str]) -> None:
    assert name in there, f"DeepSpeed {version('deepspeed')} has no {name}, which is used for: {NAMES[name]}"


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_replaced_in_deepspeed_is_where_it_was(name: str) -> None:
    private_name(name, REPLACED)


@pytest.mark.slow
def test_joining_parts_at_once_gives_what_deepspeeds_loops_give_bit_for_bit() -> None:
    spawn(_compare_with_loops, 3, free_port())


def _compare_with_loops(rank: int, world_size_port: int) -> None:
    """Weights and gradients of sizes that three ranks do not divide, and of fewer elements than ranks."""
    set_up_compilation()
    os.environ["DS_ACCELERATOR"] = "cpu"
    join(rank, 3, world_size_port)
    import deepspeed

    deepspeed.init_distributed("gloo")
    from deepspeed.runtime.comm.coalesced_collectives import reduce_scatter_coalesced

    shapes = ((5, 7), (2,), (3,), (9,), (1,))
    torch.manual_seed(rank)
    for chosen in (shapes, shapes[:1], ((3, 4),)):
        gradients = [torch.randn(shape) for shape in chosen]
        expected = reduce_scatter_coalesced([each.clone() for each in gradients])
        save_host_time()
        own = stage3_function()([each.clone() for each in gradients])
        assert [part.tolist() for part in own] == [part.tolist() for part in expected]

    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    expected = [each.detach().clone() for each in weights]
    module = nn.ParameterList(weights)
    deepspeed.zero.Init(module=module, config_dict_or_path=engine_config(STAGE, ZeroConfig(dtype="float32")))
    first: Any = module[0]
    first.all_gather_coalesced(list(module)).wait()
    assert all(torch.equal(found, wanted) for found, wanted in zip(module, expected, strict=True))
    assert all(each.is_contiguous() for each in module), "torch chooses other kernels for strided weights"
    shared_memory_file(rank).unlink(missing_ok=True)
    dist.barrier()
    os._exit(0)


def stage3_function() -> Any:
    """The function that DeepSpeed's optimizer calls by now."""
    from deepspeed.runtime.zero import stage3

    return stage3.reduce_scatter_coalesced


def test_the_op_for_cpus_has_the_name_that_its_lock_is_looked_for_by() -> None:
    found = private_name("deepspeed.ops.op_builder.cpu.comm.ShareMemCommBuilder.NAME", "waiting for the op's lock")
    assert found == SHARED_MEMORY_OP, "a lock that a killed build left would stop every run on CPUs"


def _look(rank: int, port: int, result: Path) -> None:
    set_up_compilation()
    os.environ["DS_ACCELERATOR"] = "cpu"
    join(rank, 1, port)
    import deepspeed

    found = set()
    for zero_stage in (2, 3):
        module = nn.Linear(4, 4)
        config = engine_config(STAGE, ZeroConfig(zero_stage=zero_stage, dtype="float32"))
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
        parameter = engine.module.weight
        holders = {
            "parameter": parameter,
            "module": engine.module,
            "optimizer": engine.optimizer,
            "mapping": getattr(parameter, "_hp_mapping", None),
            "coordinator": engine.optimizer.parameter_offload.get_param_coordinator() if zero_stage == 3 else None,
        }
        for name in NAMES:
            holder, _, attribute = name.removeprefix(f"zero{zero_stage} ").partition(".")
            if name.startswith(f"zero{zero_stage} ") and hasattr(holders[holder], attribute):
                found.add(name)
    if shared_memory_file(rank).exists():
        found.add("shared memory file")
        shared_memory_file(rank).unlink()
    result.write_text("\n".join(sorted(found)))
    os._exit(0)


@pytest.mark.slow
def test_a_worker_imports_neither_mlflow_nor_inductor_with_deepspeed_and_a_tracker_still_finds_mlflow() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].count(".") == 2
