"""Checks of this machine before a job starts a Ray of its own on it: it works, or one line says what to set."""

import os
import resource
import secrets
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.runtime.fork_imports import GPU_DEVICES
from pipeline.runtime.terminal import say

RAY_FOLDER = "RAY_TMPDIR"
"""Environment variable with the folder in which Ray makes its folder `ray`."""
TOKEN = "RAY_AUTH_TOKEN"
"""Environment variable with the token by which Ray's processes know each other."""
SOCKET_BYTES = 107
"""Longest path of a socket (unix(7): `sun_path` has 108 bytes, the last of which is 0)."""
SESSION = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store_99"
"""The longest path of a socket in Ray's folder (Ray 2.60; a process id has up to seven digits)."""
FOLDER_BYTES = SOCKET_BYTES - len(SESSION)
SHARED_MEMORY = "/dev/shm"
OP_BYTES = 66 * 2**20
"""Shared memory that DeepSpeed's op for CPUs takes for a rank (0.19.8, `csrc/cpu/comm/shm.cpp`: two buffers of 1 MiB,
two of 32)."""
OPEN_FILES = (1024, 65536)
"""Least and wanted number of open files: a small Ray with the jobs of the demo opens several hundred."""


def prepare_machine() -> None:
    """Prepares this process and its environment for a Ray that it starts.

    Raises:
        UsageError: no folder is fit for Ray's sockets, or too few files may be open.
    """
    usual = os.environ.get(RAY_FOLDER) or os.environ.get("TMPDIR") or "/tmp"
    folder = ray_folder(os.environ, [usual, tempfile.gettempdir(), "/tmp", "/var/tmp", f"/run/user/{os.getuid()}"])
    if folder != usual:
        os.environ[RAY_FOLDER] = folder
        say(f"Ray: its files are in {folder}, since {usual} is not fit for them")
    if needs_own_token():
        os.environ[TOKEN] = secrets.token_hex(32)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if (more := open_files(soft, hard)) != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))


def ray_folder(environment: Mapping[str, str], candidates: list[str]) -> str:
    """Returns the folder that Ray makes its folder in: the one of RAY_TMPDIR, or the first that is fit.

    Where `ray` in a folder belongs to another user, it is a folder of this user's beside it.

    Raises:
        UsageError: RAY_TMPDIR names an unfit folder, or none is fit.
    """
    if chosen := environment.get(RAY_FOLDER):
        if problem := _problem(Path(chosen)):
            raise UsageError(f"{RAY_FOLDER} is {chosen!r}, {problem}; set it to another folder, or unset it")
        return chosen
    problems = []
    for candidate in dict.fromkeys(candidates):
        for folder in (Path(candidate), Path(candidate, f"ray-{os.getuid()}")):
            if not (problem := _problem(folder)):
                return str(folder)
            problems.append(f"{str(folder)!r}, {problem}")
    raise UsageError(
        f"no folder is fit for Ray's sockets ({'; '.join(problems)}); set {RAY_FOLDER} to a folder of at most "
        f"{FOLDER_BYTES} characters in which this user may write"
    )


def _problem(folder: Path) -> str:
    """Why Ray cannot have its folder there; empty if it can."""
    if (length := len(os.fsencode(folder))) > FOLDER_BYTES:
        return f"whose {length} characters are too long for Ray's sockets (at most {FOLDER_BYTES})"
    own = folder / "ray"
    existing = next(each for each in (own, *own.parents) if each.exists())
    if not existing.is_dir():
        return f"where {str(existing)!r} is a file"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"where this user may not write to {str(existing)!r}"
    return ""


def needs_own_token() -> bool:
    """True if Ray has no token for its authentication, and could not keep a new one in the user's home."""
    if any(os.environ.get(name) for name in (TOKEN, f"{TOKEN}_PATH")):
        return False
    folder = Path(os.path.expanduser("~"), ".ray")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return True
    return not (os.access(folder / "auth_token", os.R_OK) or os.access(folder, os.W_OK))


def open_files(soft: int, hard: int) -> int:
    """Returns the limit of open files to set, between the present one and the greatest possible.

    Raises:
        UsageError: that is too little for Ray.
    """
    least, wanted = OPEN_FILES
    greatest = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft == resource.RLIM_INFINITY or soft >= greatest:
        greatest = soft
    if greatest != resource.RLIM_INFINITY and greatest < least:
        raise UsageError(
            f"a process of this user may open {greatest} files, but Ray needs {least}; raise the limit with "
            f"`ulimit -n {wanted}`, or in /etc/security/limits.conf"
        )
    return greatest


def check_shared_memory(num_workers: int) -> None:
    """Checks that this machine has the shared memory that DeepSpeed's op gives each CPU worker: with less, workers wait
    for each other without end, or die with SIGBUS.

    Raises:
        UsageError: it has not.
    """
    free, needed = shutil.disk_usage(SHARED_MEMORY).free, num_workers * OP_BYTES
    if free < needed:
        raise UsageError(
            f"{SHARED_MEMORY} has {free / 2**20:,.0f} MiB free, but {num_workers} CPU workers need "
            f"{needed / 2**20:,.0f}; enlarge it, as with `docker run --shm-size=2g`"
        )


def has_gpu_driver() -> bool:
    """True if the driver of NVIDIA's GPUs is loaded. It is a file's existence, where torch would take seconds."""
    return Path(f"{GPU_DEVICES}ctl").exists()


def has_ipv4() -> bool:
    """True if packets can be routed to IPv4 addresses, as Ray's search for this machine's address needs it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing (RFC 5737: an address for documentation)
        except OSError:
            return False
    return True
