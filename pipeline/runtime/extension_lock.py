"""The lock of the op that DeepSpeed compiles for CPU workers. A killed process leaves it behind, and torch would wait
for it forever, silently."""

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.runtime.deepspeed_private import SHARED_MEMORY_OP
from pipeline.runtime.torch_private import extension_folder

LOG_AFTER_S, STALE_AFTER_S, POLL_S = 5.0, 300.0, 0.5
"""Seconds. Compiling takes about a minute."""


def await_extension_lock(log: Callable[[str], None]) -> None:
    """Waits until no process compiles or loads the op. Removes a lock that is older than `STALE_AFTER_S`.

    Args:
        log: receives a line if it waits longer than `LOG_AFTER_S`.
    """
    lock = extension_folder(SHARED_MEMORY_OP) / "lock"
    started, told = time.monotonic(), False
    while (age_s := _age_s(lock)) is not None:
        if age_s > STALE_AFTER_S:
            lock.unlink(missing_ok=True)
            log(f"{lock} was {age_s:.0f} s old: who made it was killed; it is removed")
            return
        if not told and time.monotonic() - started > LOG_AFTER_S:
            log(f"waits while another process compiles DeepSpeed's op for CPUs; if none does, remove {lock}")
            told = True
        time.sleep(POLL_S)


def _age_s(lock: Path) -> float | None:
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None
