"""The op that DeepSpeed compiles for CPU workers: where it goes, what compiles it, and the lock of its compilation."""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.runtime.deepspeed_private import SHARED_MEMORY_OP
from pipeline.runtime.torch_private import extension_folder
from tokenization.waiting import Wait

STALE_AFTER_S, POLL_S = 300.0, 0.5
"""Seconds. Compiling takes about a minute."""
FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"
"""Environment variable with the folder in which torch compiles ops."""


def set_up_compilation() -> None:
    """Lets torch compile ops with this environment's `ninja`, into a folder of this environment.

    By default all environments of a user share a folder in the home directory, and each compiles the op anew after
    another one did. A folder that the user has chosen stays.
    """
    tools = str(Path(sys.executable).parent)
    if tools not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = tools + os.pathsep + os.environ.get("PATH", "")
    if not os.environ.get(FOLDER_VARIABLE):
        os.environ[FOLDER_VARIABLE] = str(_own_folder())


def _own_folder() -> Path:
    """Returns the first writable one of: the environment, the user's cache, the machine's temporary folder."""
    prefix = Path(sys.prefix)
    if os.access(prefix, os.W_OK):
        return prefix / "torch_extensions"
    name = f"mars-{hashlib.sha256(str(prefix).encode()).hexdigest()[:16]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache")).absolute()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if os.access(existing, os.W_OK):
        return cache / "torch_extensions" / name
    return Path(tempfile.gettempdir()) / f"torch_extensions-{os.getuid()}-{name}"


def await_compilation(log: Callable[[str], None]) -> None:
    """Waits until no process compiles or loads the op.

    A killed process leaves the lock behind, and torch would wait for it forever, silently. A lock that is older than
    `STALE_AFTER_S` is removed.

    Args:
        log: receives the lines about it.
    """
    lock = extension_folder(SHARED_MEMORY_OP) / "lock"
    wait = Wait(log)
    while (age_s := _age_s(lock)) is not None:
        if age_s > STALE_AFTER_S:
            lock.unlink(missing_ok=True)
            log(f"{lock} was {age_s:.0f} s old: the process that made it was killed; the lock is removed")
            return
        wait.still(f"another process, which compiles DeepSpeed's op for CPUs; if none does, remove {lock}")
        time.sleep(POLL_S)


def _age_s(lock: Path) -> float | None:
    try:
        return time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return None
