"""Exchange of plain values between the ranks of a `torch.distributed` group. Every rank calls each function, in the
same order. No function needs Ray."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def from_every_rank(value: T) -> list[T]:
    """Returns the values of all ranks, in rank order. They are pickled."""
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first_rank(value: T) -> T:
    """Returns rank 0's value on every rank; the other ranks' values are ignored. It is pickled."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def agree_on_problem(problem: str | None) -> str | None:
    """Returns the problem of the lowest rank that has one, or None if no rank has one.

    If one rank fails alone, the others wait in their next collective. So each rank catches its own error and calls this
    function; then all ranks raise, or none does.
    """
    return next(filter(None, from_every_rank(problem)), None)
