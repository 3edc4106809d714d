"""Measures the links and the computing speed of all ranks. Every rank calls it, with `torch.distributed` initialized.

Bandwidths are bus bandwidths, as nccl-tests define them (its PERFORMANCE.md): the bytes a second that a rank sends in a
ring, 2 (n - 1) / n of the bytes of an all-reduce among n ranks, and (n - 1) / n of the result of an all-gather.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.preflight.gpus import CANNOT_ASK, gpus_here
from pipeline.preflight.nccl_log import Network, efa_devices, network_of_process
from pipeline.runtime.agreement import from_every_rank

NUM_BYTES = {"cuda": 256 * 2**20, "cpu": 8 * 2**20}
"""Bytes of an all-reduce, and of an all-gather's result."""
REPEATS = {"cuda": 10, "cpu": 3}
MATRIX = {"cuda": 8192, "cpu": 512}
"""Side of the square matrices that are multiplied."""
WINDOW_S, WINDOWS = 0.3, 3
PARTNER_ROUNDS = 3
"""Rounds of exchanges between pairs of nodes. A slow node is slow with all of its partners."""


@dataclass(frozen=True)
class RankReport:
    """The measurements of one rank.

    Attributes:
        rank, node: its rank, and its node's id.
        flop_per_s: rate of its matrix products, in the best of `WINDOWS` windows.
        inside, between: bus bandwidth of each operation in bytes/s, among the ranks of its node, and among one rank of
            each node, at the same time for every place in a node. None where there is only one.
        exchanged_bytes_per_s: with the best of its node's partners, each direction; None on ranks that take no part.
        network: what NCCL says of its network.
        efa: the node's EFA devices.
        slowed_by: why the GPU's clocks were lowered under load.
    """

    rank: int
    node: str
    flop_per_s: float
    inside: dict[str, float | None]
    between: dict[str, float | None]
    exchanged_bytes_per_s: float | None
    network: Network
    efa: tuple[str, ...]
    slowed_by: tuple[str, ...] = ()


def measure_network(node: str, device: torch.device) -> list[RankReport]:
    """Measures, and returns the reports of all ranks on every rank.

    Args:
        node: id of this rank's node.
        device: this rank's device.
    """
    rank = dist.get_rank()
    of_node: dict[str, list[int]] = {}
    for other, its_node in enumerate(from_every_rank(node)):
        of_node.setdefault(its_node, []).append(other)
    nodes = list(of_node.values())
    flop_per_s, slowed_by = _flop_per_s(device), _slowed_by(device)
    inside, between = _group_of(nodes, rank), _group_of(across(nodes), rank)
    own = RankReport(
        rank=rank,
        node=node,
        flop_per_s=flop_per_s,
        inside=_bandwidths(inside, device),
        between=_bandwidths(between, device),
        exchanged_bytes_per_s=_exchange([ranks[0] for ranks in nodes], rank, device),
        network=network_of_process(),
        efa=tuple(efa_devices()),
        slowed_by=slowed_by,
    )
    return from_every_rank(own)


def across(nodes: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns the ranks of one place of every node, for each place."""
    most = max(len(ranks) for ranks in nodes)
    return [[ranks[place] for ranks in nodes if place < len(ranks)] for place in range(most)]


def pairs_of_round(count: int, number: int) -> list[tuple[int, int]]:
    """Returns the pairs of round `number` of a tournament of `count` players, in which all play all (circle method)."""
    players = list(range(count)) + ([-1] if count % 2 else [])  # who plays -1 pauses
    turn = number % max(1, len(players) - 1)
    turned = players[:1] + players[1 + turn :] + players[1 : 1 + turn]
    half = len(turned) // 2
    pairs = zip(turned[:half], reversed(turned[half:]), strict=True)
    return [(min(pair), max(pair)) for pair in pairs if -1 not in pair]


def _group_of(groups: Sequence[Sequence[int]], rank: int) -> dist.ProcessGroup | None:
    """Makes all groups, as every rank must, and returns this rank's; None if it is alone."""
    own = None
    for ranks in groups:
        if len(ranks) < 2:
            continue
        group = dist.new_group(list(ranks))
        if rank in ranks:
            own = group
    return own


def _bandwidths(group: dist.ProcessGroup | None, device: torch.device) -> dict[str, float | None]:
    dist.barrier()  # all groups measure at the same time
    if group is None:
        return {"all-reduce": None, "all-gather": None}
    ranks, num_bytes = dist.get_world_size(group), NUM_BYTES[device.type]
    whole = torch.ones(num_bytes // 4 // ranks * ranks, device=device)
    part = torch.ones(whole.numel() // ranks, device=device)
    moved = whole.numel() * 4 * (ranks - 1) / ranks
    reduced_s = _seconds(lambda: dist.all_reduce(whole, group=group), device)
    gathered_s = _seconds(lambda: dist.all_gather_into_tensor(whole, part, group=group), device)
    return {"all-reduce": 2 * moved / reduced_s, "all-gather": moved / gathered_s}


def _exchange(leaders: Sequence[int], rank: int, device: torch.device) -> float | None:
    """Exchanges bytes between pairs of the nodes' first ranks. Returns the rate with the best partner."""
    best = None
    for number in range(min(PARTNER_ROUNDS, len(leaders) - 1)):
        dist.barrier()
        for one, other in pairs_of_round(len(leaders), number):
            if rank not in (leaders[one], leaders[other]):
                continue
            partner = leaders[other] if rank == leaders[one] else leaders[one]
            sent = torch.ones(NUM_BYTES[device.type] // 4, device=device)
            got = torch.empty_like(sent)
            seconds = _seconds(partial(_swap, sent, got, partner), device)
            best = max(best or 0.0, sent.numel() * 4 / seconds)
    dist.barrier()
    return best


def _swap(sent: Tensor, got: Tensor, partner: int) -> None:
    pending = dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, partner), dist.P2POp(dist.irecv, got, partner)])
    for each in pending:
        each.wait()


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of a repetition, after one that connects."""
    repeats = REPEATS[device.type]
    run()
    _wait_for(device)
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    _wait_for(device)
    return (time.perf_counter() - started) / repeats


def _flop_per_s(device: torch.device) -> float:
    side = MATRIX[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    best = 0.0
    for _ in range(WINDOWS):
        _wait_for(device)
        started, products = time.perf_counter(), 0
        while time.perf_counter() - started < WINDOW_S:
            left @ right
            products += 1
            _wait_for(device)
        best = max(best, products * 2 * side**3 / (time.perf_counter() - started))
    return best


def _slowed_by(device: torch.device) -> tuple[str, ...]:
    """The reasons why the GPU's clocks are lowered, read right after work. A rank must not fail alone: the others would
    wait."""
    if device.type != "cuda":
        return ()
    try:
        gpus = gpus_here()
        own = str(torch.cuda.get_device_properties(device).uuid)
    except CANNOT_ASK as error:
        return (f"unknown causes (nvidia-smi failed: {error})",)
    return next((gpu.slowed_by for gpu in gpus if own in gpu.uuid), ())


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
