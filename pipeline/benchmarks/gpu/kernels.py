"""Records the kernels that run on the device during a call, with torch's profiler."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

NAME_LENGTH = 80


@dataclass(frozen=True)
class DeviceWork:
    """Seconds in which the device ran at least one kernel, and seconds by kernel, the longest first."""

    busy_s: float
    by_kernel: dict[str, float]


def device_work(run: Callable[[], object], num_kernels: int = 15) -> DeviceWork:
    """Runs something once on CUDA under the profiler. The time of the call itself is not measured, because the profiler
    slows the host."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    events = profiler.events()
    kernels = [each for each in events if each.device_type is DeviceType.CUDA and not each.is_user_annotation]
    intervals = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    names: Counter[str] = Counter()
    for event in kernels:
        names[event.name[:NAME_LENGTH]] += (event.time_range.end - event.time_range.start) / 1e6
    return DeviceWork(covered(intervals) / 1e6, dict(names.most_common(num_kernels)))


def covered(intervals: list[tuple[float, float]]) -> float:
    """The length that sorted intervals cover together, where they overlap once."""
    total, reached = 0.0, float("-inf")
    for start, end in intervals:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
