"""Counts the collectives of the code inside: calls, and the bytes that this rank's node receives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from pipeline.runtime.torch_private import DispatchMode, process_group_of, tensors_in

GATHERS = ("_allgather_base_", "allgather_", "allgather_into_tensor_coalesced_")
REDUCTIONS = {"_reduce_scatter_base_": 1, "reduce_scatter_": 1, "reduce_scatter_tensor_coalesced_": 1, "allreduce_": 0}
"""Operators that reduce, with the number of the argument that has what is reduced."""


@dataclass
class Volume:
    """Bytes of the collectives, as the whole tensor that they gather or reduce.

    Attributes:
        calls: number of collectives of any kind.
        gathered: bytes that all-gathers returned on this rank.
        gathered_between_nodes: of these, the bytes that came from other nodes.
        reduced: bytes that reductions took on this rank.
    """

    calls: int = 0
    gathered: float = 0.0
    gathered_between_nodes: float = 0.0
    reduced: float = 0.0


@dataclass
class CollectiveCounter(DispatchMode):
    """Counts what is called inside, also in backward passes on CPUs.

    Attributes:
        ranks_per_node: ranks 0 to `ranks_per_node - 1` are on this rank's node, and so on.
        volume: what was counted.
    """

    ranks_per_node: int
    volume: Volume = field(default_factory=Volume)

    def __post_init__(self) -> None:
        super().__init__()

    def take(self) -> Volume:
        """Returns what was counted since the last call."""
        taken, self.volume = self.volume, Volume()
        return taken

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        namespace, _, name = function.name().partition("::")
        if namespace == "c10d" and name != "barrier":
            self.volume.calls += 1
            if name in GATHERS:
                num_bytes = _bytes(args[0])
                self.volume.gathered += num_bytes
                self.volume.gathered_between_nodes += num_bytes * self._share_of_others(args)
            elif name in REDUCTIONS:
                self.volume.reduced += _bytes(args[REDUCTIONS[name]])
        run: Callable[..., Any] = function
        return run(*args, **(kwargs or {}))

    def _share_of_others(self, args: tuple[Any, ...]) -> float:
        """Share of a gathered tensor that enters this node from others, each part once, as in a ring."""
        ranks = dist.get_process_group_ranks(process_group_of(args))
        nodes = {rank // self.ranks_per_node for rank in ranks}
        return 0.0 if len(nodes) == 1 else 1 - 1 / len(ranks)


def _bytes(tensors: Any) -> int:
    return sum(each.numel() * each.element_size() for each in tensors_in(tensors))
