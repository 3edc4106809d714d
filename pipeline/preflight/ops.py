"""Checks that a node can compile what training needs: DeepSpeed's op for CPU ranks, and on GPUs torch.compile's
kernels."""

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.preflight.finding import Finding, Verdict, failed
from pipeline.preflight.nodes import Node

SUBJECT = "ops"
COMPILERS = ("cc", "gcc", "clang")
"""Triton takes the first of them (or CC) for what starts its kernels."""


@dataclass(frozen=True)
class Ops:
    """The compiled ops and the compiler of a node.

    Attributes:
        was_built: True if DeepSpeed's op for CPUs was there already; None where GPUs train, which do not use it.
        seconds: the time that the build took now.
        compiler: path of the C compiler; empty if there is none.
        problem: why the op cannot be built; empty if it can.
    """

    was_built: bool | None
    seconds: float
    compiler: str
    problem: str = ""


def ops_here(use_gpu: bool) -> Ops:
    """Returns what this node has. Builds DeepSpeed's op for CPUs if it is needed and missing. Called on each node."""
    from pipeline.runtime.compiled_ops import await_compilation, set_up_compilation
    from pipeline.runtime.deepspeed_private import SHARED_MEMORY_OP
    from pipeline.runtime.torch_private import extension_folder

    set_up_compilation()
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None) or ""
    if use_gpu:
        return Ops(None, 0.0, compiler)
    if any(extension_folder(SHARED_MEMORY_OP).glob("*.so")):
        return Ops(True, 0.0, compiler)
    started = time.monotonic()
    try:
        await_compilation(lambda line: None)
        _build()
    except (RuntimeError, OSError, ImportError) as error:
        return Ops(False, time.monotonic() - started, compiler, f"{type(error).__name__}: {error}")
    return Ops(False, time.monotonic() - started, compiler)


def _build() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.comm.torch import build_shm_op

    if build_shm_op() is None:
        raise RuntimeError("DeepSpeed reports that this machine cannot build it")


def judge_ops(by_node: Mapping[Node, Ops]) -> list[Finding]:
    """Judges each node's ops."""
    return [_judged(str(node), ops) for node, ops in by_node.items()]


def _judged(node: str, ops: Ops) -> Finding:
    if ops.was_built is None:
        what, remedy = "C compiler for torch.compile", "install gcc there (the image of cluster/Dockerfile has it)"
        if ops.compiler:
            return Finding(SUBJECT, what, Verdict.OK, ops.compiler, node=node)
        return failed(SUBJECT, what, "there is none", remedy, node)
    what = "DeepSpeed's op for CPU ranks"
    if ops.problem:
        remedy = "install g++ and ninja there, and make TORCH_EXTENSIONS_DIR writable"
        return failed(SUBJECT, what, " ".join(ops.problem.split())[:300], remedy, node)
    said = "is built" if ops.was_built else f"is built now, in {ops.seconds:.0f} s"
    return Finding(SUBJECT, what, Verdict.OK, said, node=node, figures={"build_s": ops.seconds})
