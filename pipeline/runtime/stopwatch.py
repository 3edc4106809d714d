"""How long parts of a step take, by the clock of the device that runs them."""

import time

import torch


class Stopwatch:
    """Adds up the seconds between marks by name. On CUDA the device itself notes the marks, so that nothing has to be
    waited for before the end of the step.

    Args:
        device: that runs what is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._last: torch.cuda.Event | float = 0.0
        self._laps: list[tuple[str, torch.cuda.Event | float, torch.cuda.Event | float]] = []

    def start(self) -> None:
        """From here on, up to the next lap."""
        self._last = self._now()

    def lap(self, name: str) -> None:
        """Up to here since the last mark it was `name` that took its time."""
        now = self._now()
        self._laps.append((name, self._last, now))
        self._last = now

    def seconds(self) -> dict[str, float]:
        """Of all laps so far, by name. On CUDA it waits until they are over."""
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
