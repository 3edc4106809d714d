"""Compiles the kernels of FlexAttention for GPUs, on a machine without any.

Forward and backward graph are captured on the CPU. `torch.compile`'s backend then gets them as if their tensors were on
a GPU of a given type, and writes its Triton source; Triton compiles that for the type, down to the cubin. What asks for
the device is replaced, for the whole process: run this file in one of its own, which prints a JSON object for each
kernel.

    python -m tests.support.flex_kernels A100 32 32
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.fx
import torch.nn.attention.flex_attention as torch_flex
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only

from pipeline.architecture.masks import PackedPositions, attention_mask

HEAD_DIM, ROWS, NUM_TEXT, NUM_VISUAL, SAMPLE = 128, 2, 192, 320, 77
"""A row's picture and text positions are no multiples of 128, as in most rows of training."""


@dataclass(frozen=True)
class Gpu:
    """The figures of a GPU type that the compiler needs, from NVIDIA's tuning guides of its architecture."""

    capability: tuple[int, int]
    multi_processors: int
    shared_bytes: int

    @property
    def number(self) -> int:
        return 10 * self.capability[0] + self.capability[1]


GPUS = {"A100": Gpu((8, 0), 108, 163 * 1024), "H100": Gpu((9, 0), 132, 227 * 1024)}


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel.

    Attributes:
        name: of its function.
        target: the architecture in its PTX.
        tensor_cores: it multiplies with tensor cores.
        shared_bytes: shared memory of a block.
        registers, local_bytes: registers of a thread, and bytes of it that did not fit into them.
        cubin_bytes: size of the machine code.
    """

    name: str
    target: str
    tensor_cores: bool
    shared_bytes: int
    registers: int
    local_bytes: int
    cubin_bytes: int


Graph = tuple[torch.fx.GraphModule, list[Any]]
"""A graph, and shape, strides and dtype of each input that is a tensor."""


def captured_graphs(num_heads: int, num_key_heads: int) -> list[Graph]:
    """Forward and backward graph of the attention of pictures to text and pictures, in bf16."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._inductor.decomposition import select_decomp_table

    graphs: list[Graph] = []

    def capture(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        described = [
            (tuple(each.shape), tuple(each.stride()), each.dtype) if isinstance(each, torch.Tensor) else each
            for each in inputs
        ]
        graphs.append((graph, described))
        return make_boxed_func(graph.forward)

    def random(heads: int, length: int) -> torch.Tensor:
        return torch.randn(ROWS, heads, length, HEAD_DIM, dtype=torch.bfloat16, requires_grad=True)

    torch_flex._validate_device = lambda *_: None  # a CPU has no backward pass otherwise
    segments = torch.arange(NUM_TEXT + NUM_VISUAL).div(SAMPLE, rounding_mode="floor").expand(ROWS, -1).contiguous()
    keys = PackedPositions(segments, segments)
    queries = PackedPositions(segments[:, NUM_TEXT:].contiguous(), segments[:, NUM_TEXT:].contiguous())
    mask = attention_mask(queries, keys, "flex_attention", torch.bfloat16)
    backend = aot_autograd(fw_compiler=capture, bw_compiler=capture, decompositions=select_decomp_table())
    attend = torch.compile(torch_flex.flex_attention, backend=backend, dynamic=False)
    attended = attend(
        random(num_heads, NUM_VISUAL),
        random(num_key_heads, NUM_TEXT + NUM_VISUAL),
        random(num_key_heads, NUM_TEXT + NUM_VISUAL),
        block_mask=mask,
        scale=HEAD_DIM**-0.5,
        enable_gqa=num_heads != num_key_heads,
    )
    attended.sum().backward()
    return graphs


def pretend(gpu: Gpu) -> None:
    """Answers for a GPU wherever the compilers ask for one."""
    import torch._dynamo.device_interface as interfaces
    import torch._inductor.runtime.triton_helpers as triton_helpers
    import torch._subclasses.fake_tensor as fake_tensor
    import torch.utils._triton as torch_triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    properties = SimpleNamespace(
        major=gpu.capability[0],
        minor=gpu.capability[1],
        name="GPU",
        multi_processor_count=gpu.multi_processors,
        shared_memory_per_block_optin=gpu.shared_bytes,
        warp_size=32,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        total_memory=80 * 2**30,
    )
    answers: dict[str, Any] = dict(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        _exchange_device=lambda _: 0,
        _maybe_exchange_device=lambda _: 0,
        get_device_properties=lambda *_: properties,
        get_device_capability=lambda *_: gpu.capability,
        get_rng_state=lambda *_: torch.zeros(16, dtype=torch.uint8),
        set_rng_state=lambda *_: None,
        synchronize=lambda *_: None,
    )
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
        if hasattr(interfaces.CudaInterface, name):
            setattr(interfaces.CudaInterface, name, staticmethod(answer))
    for name in ("current_device", "get_device_properties"):
        setattr(interfaces.CudaInterface.Worker, name, staticmethod(answers[name]))
    others: list[tuple[Any, str, Any]] = [
        (torch.accelerator, "is_available", lambda: False),  # it would be asked for a stream
        (fake_tensor, "init_gpu_context", lambda *_: None),
        (triton_helpers, "set_driver_to_gpu", lambda: None),
    ]
    for module, name, answer in others:
        setattr(module, name, answer)
    torch_triton.has_triton.cache_clear()
    active = SimpleNamespace(
        utils=SimpleNamespace(get_device_properties=lambda _: {"max_shared_mem": gpu.shared_bytes}),
        get_current_target=lambda: GPUTarget("cuda", gpu.number, 32),
        get_current_device=lambda: 0,
        get_device_interface=lambda: torch.cuda,
        get_active_torch_device=lambda: torch.device("cuda", 0),
    )
    driver.set_active(active)


def triton_sources(graphs: list[Graph]) -> dict[str, str]:
    """The Triton source of each kernel of the graphs, by its name, for the GPU that is pretended."""
    from torch._guards import TracingContext, tracing
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.compile_fx import compile_fx_inner

    sources: dict[str, str] = {}

    def note(self: Any, name: str, source: str, *_: Any, **__: Any) -> Any:
        sources[name] = source
        return SimpleNamespace(run=None)

    for graph, inputs in graphs:
        with (
            patch.object(AsyncCompile, "triton", note),
            FakeTensorMode(allow_non_fake_inputs=True) as mode,
            tracing(TracingContext(mode)),
        ):
            tensors = [
                torch.empty_strided(each[0], each[1], dtype=each[2], device="cuda") if isinstance(each, tuple) else each
                for each in inputs
            ]
            _move_to_gpu(graph, tensors)
            compile_fx_inner(graph, tensors)
    return sources


def _move_to_gpu(graph: torch.fx.GraphModule, inputs: list[Any]) -> None:
    """Rewrites what the graph and its subgraphs say of their tensors' device."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tuple(tensor.shape), tuple(tensor.stride()), dtype=tensor.dtype, device="cuda")

    for module in graph.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta |= {
                    key: tree_map_only(torch.Tensor, moved, node.meta[key])
                    for key in ("val", "example_value")
                    if key in node.meta
                }
    for node, value in zip((node for node in graph.graph.nodes if node.op == "placeholder"), inputs, strict=True):
        node.meta["val"] = value
    for node in graph.graph.nodes:
        # On a CPU, torch leaves out the sums that the backward pass needs; on a GPU it does not.
        node.args = tuple(
            {**each, "OUTPUT_LOGSUMEXP": True} if isinstance(each, dict) and "OUTPUT_LOGSUMEXP" in each else each
            for each in node.args
        )


def compiled(name: str, source: str, gpu: Gpu, folder: Path) -> Kernel:
    """Compiles the Triton source of a kernel with the settings that `torch.compile` chose."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = _module(folder / f"{name}.py", source)
    tuner = getattr(module, name)
    config = tuner.configs[0]
    meta = tuner.triton_meta
    constants = {**meta["constants"], **config.kwargs}
    source_tree = ASTSource(tuner.fn, meta["signature"], constants, meta["configs"][0])
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    binary = triton.compile(source_tree, target=GPUTarget("cuda", gpu.number, 32), options=options)
    ptx, cubin = binary.asm["ptx"], binary.asm["cubin"]
    registers, local_bytes = _resources(cubin, folder)
    return Kernel(
        name,
        target=re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0],
        tensor_cores="mma." in ptx,
        shared_bytes=binary.metadata.shared,
        registers=registers,
        local_bytes=local_bytes,
        cubin_bytes=len(cubin),
    )


def _module(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _resources(cubin: bytes, folder: Path) -> tuple[int, int]:
    """Registers and bytes of local memory of a thread, as NVIDIA's tool reads them from the machine code."""
    import triton.backends.nvidia

    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    shown = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+).*? LOCAL:(\d+)", shown)
    assert found, shown
    return int(found[1]), int(found[2]) + int(found[3])


def main(gpu_name: str, num_heads: int, num_key_heads: int) -> None:
    """Prints each kernel as a JSON object."""
    gpu = GPUS[gpu_name]
    graphs = captured_graphs(num_heads, num_key_heads)
    pretend(gpu)
    sources = triton_sources(graphs)
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources.items():
            print(json.dumps(asdict(compiled(name, source, gpu, Path(folder)))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
