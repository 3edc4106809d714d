"""Measures the durations of a step's parts with the clock of the device that runs them."""

import time

import torch


class Stopwatch:
    """Adds up the seconds between marks by name. On CUDA the marks are CUDA events, so that the host need not wait
    before the end of the step.

    Args:
        device: the device that runs the timed work.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._last: torch.cuda.Event | float = 0.0
        self._laps: list[tuple[str, torch.cuda.Event | float, torch.cuda.Event | float]] = []

    def start(self) -> None:
        """Sets a mark, at which the next lap begins."""
        self._last = self._now()

    def lap(self, name: str) -> None:
        """Sets a mark, and adds the time since the previous mark to `name`."""
        now = self._now()
        self._laps.append((name, self._last, now))
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Seconds of all laps so far, by name. On CUDA it waits for their end."""
        sums: dict[str, float] = {}
        for name, start, end in self._laps:
            if isinstance(start, float) or isinstance(end, float):
                assert isinstance(start, float) and isinstance(end, float)
                took = end - start
            else:
                end.synchronize()
                took = start.elapsed_time(end) / 1e3
            sums[name] = sums.get(name, 0.0) + took
        return sums

    def _now(self) -> torch.cuda.Event | float:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
