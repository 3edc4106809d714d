"""How much memory this process takes, by Linux's own count."""

from pathlib import Path


class MemoryGrowth:
    """Counts from when it is made. `ru_maxrss` would not do: a process inherits that from the one that started it."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
        self._before = _kilobytes("VmRSS")

    def peak_bytes(self) -> int:
        """The most that the process has held since, beyond what it held at first; mapped pages count."""
        return max(0, _kilobytes("VmHWM") - self._before) * 1024


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
