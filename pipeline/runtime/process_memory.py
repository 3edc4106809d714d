"""The memory use of processes, as counted by Linux."""

from pathlib import Path


class MemoryGrowth:
    """The growth of memory since this object was made. `ru_maxrss` does not work: a process inherits its parent's."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak (proc(5))
        self._before = _kilobytes("VmRSS")

    def peak_bytes(self) -> int:
        """The process's peak memory since then, minus its memory at the start; mapped pages count."""
        return max(0, _kilobytes("VmHWM") - self._before) * 1024


def peak_bytes_of(process_id: int) -> int:
    """Another process's peak memory."""
    return _kilobytes("VmHWM", str(process_id)) * 1024


def _kilobytes(name: str, process: str = "self") -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])
