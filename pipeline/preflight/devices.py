"""A node's processors, memory and GPUs beside what the plan needs of them."""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from pipeline.preflight.finding import Finding, Verdict, count_of, failed, verdict_of_share, with_unit
from pipeline.preflight.gpus import CANNOT_ASK, Gpu, gpus_here, judge_gpus
from pipeline.preflight.nodes import Node

SUBJECT = "devices"
SLOW_HOST = (0.6, 0.4)
"""Shares of the fastest node's speed below which a node gives a warning, and fails (this project's own choice)."""
HASHED_BYTES, WINDOW_S, WINDOWS = 2**20, 0.25, 3
SHARED_MEMORY = "/dev/shm"
SHARED_BYTES_PER_RANK = 69_000_000
"""Shared memory of DeepSpeed's op for CPU ranks (`pipeline.training.engine.unlink_shared_memory`)."""


@dataclass(frozen=True)
class Host:
    """The processors, memory and GPUs of a node.

    Attributes:
        cpus: processors that this process may use.
        hashed_bytes_per_s: speed of one processor, measured with sha256: the best of `WINDOWS` windows.
        total_bytes, available_bytes: host memory, and the part that programs can still allocate.
        shared_free_bytes: free bytes of `SHARED_MEMORY`.
        gpus: its GPUs.
        gpu_problem: why they could not be queried; empty if they were.
    """

    cpus: int
    hashed_bytes_per_s: float
    total_bytes: int
    available_bytes: int
    shared_free_bytes: int
    gpus: tuple[Gpu, ...]
    gpu_problem: str = ""


@dataclass(frozen=True)
class Need:
    """The plan's needs of a node.

    Attributes:
        ranks: ranks on the node.
        host_bytes: host memory of a rank.
        gpu_bytes: GPU memory of a rank at its fullest moment; 0 on CPUs.
        gpu_type: the GPU type of the plan; empty on CPUs.
    """

    ranks: int
    host_bytes: int
    gpu_bytes: int = 0
    gpu_type: str = ""


def host_here() -> Host:
    """Returns what this node has. Called on each node."""
    memory, problem = psutil.virtual_memory(), ""
    gpus: tuple[Gpu, ...] = ()
    try:
        gpus = tuple(gpus_here())
    except CANNOT_ASK as error:
        problem = f"{type(error).__name__}: {error}"
    return Host(
        cpus=len(os.sched_getaffinity(0)),
        hashed_bytes_per_s=_hashed_bytes_per_s(),
        total_bytes=memory.total,
        available_bytes=memory.available,
        shared_free_bytes=shutil.disk_usage(SHARED_MEMORY).free,
        gpus=gpus,
        gpu_problem=problem,
    )


def _hashed_bytes_per_s() -> float:
    block, best = bytes(HASHED_BYTES), 0.0
    for _ in range(WINDOWS):
        started, blocks = time.perf_counter(), 0
        while time.perf_counter() - started < WINDOW_S:
            hashlib.sha256(block)
            blocks += 1
        best = max(best, blocks * HASHED_BYTES / (time.perf_counter() - started))
    return best


def judge_hosts(by_node: Mapping[Node, Host], needs: Mapping[Node, Need]) -> list[Finding]:
    """Judges every node on which workers may run."""
    findings = []
    fastest = max((host.hashed_bytes_per_s for host in by_node.values()), default=0.0)
    for node, need in needs.items():
        if host := by_node.get(node):
            findings += [_speed(str(node), host, fastest), *judge_host(node, host, need)]
    return findings


def _speed(node: str, host: Host, fastest: float) -> Finding:
    verdict = verdict_of_share(host.hashed_bytes_per_s / fastest, SLOW_HOST)
    remedy = "every rank waits for this node: end what else runs there, look at its cooling, or leave it out"
    return Finding(
        SUBJECT,
        "speed of a processor, sha256",
        verdict,
        with_unit(host.hashed_bytes_per_s, "B/s"),
        f"fastest node {with_unit(fastest, 'B/s')}",
        node,
        remedy if verdict else "",
        {"bytes_per_s": host.hashed_bytes_per_s, "fastest_bytes_per_s": fastest},
    )


def judge_host(node: Node, host: Host, need: Need) -> list[Finding]:
    """Compares what a node has with what its ranks need."""
    name = str(node)
    findings = [_memory(name, host, need)]
    if not need.gpu_type:
        findings.append(_shared_memory(name, host, need))
    if (asked := node.resources.get("CPU", 0.0)) > host.cpus:
        remedy = "start Ray there with --num-cpus of what the machine has, or free what is bound to other processes"
        said = f"{host.cpus} CPUs, Ray gives out {asked:g}"
        findings.append(Finding(SUBJECT, "CPUs", Verdict.WARNING, said, f"{asked:g}", name, remedy))
    if host.gpu_problem:
        findings.append(failed(SUBJECT, "GPUs", host.gpu_problem, "repair the driver, or leave the node out", name))
    elif need.gpu_type:
        findings += judge_gpus(name, host.gpus, node.resources.get("GPU", 0.0), need.gpu_bytes, need.gpu_type)
    return findings


def _memory(node: str, host: Host, need: Need) -> Finding:
    needed = need.ranks * need.host_bytes
    verdict = Verdict.OK if host.available_bytes >= needed else Verdict.FAILED
    return Finding(
        SUBJECT,
        "host memory",
        verdict,
        f"{with_unit(host.available_bytes, 'B')} free of {with_unit(host.total_bytes, 'B')}",
        f"{with_unit(needed, 'B')} for {count_of(need.ranks, 'rank')}",
        node,
        "end what else runs there, or put fewer ranks on a node" if verdict else "",
        {"available_bytes": host.available_bytes, "needed_bytes": needed, "cpus": host.cpus},
    )


def _shared_memory(node: str, host: Host, need: Need) -> Finding:
    needed = need.ranks * SHARED_BYTES_PER_RANK
    verdict = Verdict.OK if host.shared_free_bytes >= needed else Verdict.FAILED
    return Finding(
        SUBJECT,
        SHARED_MEMORY,
        verdict,
        f"{with_unit(host.shared_free_bytes, 'B')} free",
        with_unit(needed, "B"),
        node,
        "start the container with a larger --shm-size, or remove files of ended jobs there" if verdict else "",
        {"free_bytes": host.shared_free_bytes, "needed_bytes": needed},
    )
