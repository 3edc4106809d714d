"""What the ranks of a `torch.distributed` group tell each other in plain values. Every rank calls each function, in the
same order; none needs Ray."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def from_every_rank(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks. They are pickled."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first_rank(value: T) -> T:
    """Rank 0's value; what the other ranks pass is ignored. It is pickled."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def agree_on_problem(problem: str | None) -> str | None:
    """The problem of the lowest rank that has one; None where no rank has one.

    A rank that fails alone leaves the others waiting in their next collective. So each rank catches its own error,
    calls this, and all of them raise, or none does.
    """
    return next(filter(None, from_every_rank(problem)), None)
