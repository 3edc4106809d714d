"""Says whether Ray can reserve CPU and memory for its own processes on this node. Cluster files run it where they start
Ray: `ray start ... $(python -m cluster.resource_isolation)`. Words after that, as `--system-reserved-cpu=2`, are given
to Ray with the flags, or not at all: Ray refuses them alone. Imports the standard library alone.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

FLAG = "--enable-resource-isolation"
CONTROLLERS = ("cpu", "memory")
"""What Ray needs of a cgroup (docs.ray.io, "Resource Isolation With Cgroup v2")."""
MORE_THAN_CPUS = 1.0
"""Ray reserves 5% of the CPUs, at least one and at most three, and refuses to take them all."""
WRITTEN = ("cgroup.procs", "cgroup.subtree_control")
"""Files of a cgroup that its owner must write to make and fill cgroups in it (kernel.org, cgroup-v2, "Delegation")."""


class NotIsolatedError(Exception):
    """Ray cannot isolate its processes here; the message says why."""


def find_cgroup(mounts: str, membership: str) -> Path:
    """Returns the folder of this process's cgroup.

    Args:
        mounts: The text of /proc/self/mounts.
        membership: The text of /proc/self/cgroup.

    Raises:
        NotIsolatedError: Version 1 of cgroups is mounted, which Ray refuses, or version 2 is not; or the process is in
            no cgroup of version 2, or in one that a shell would not give to Ray as it is.
    """
    entries = [entry for line in mounts.splitlines() if len(entry := line.split(" ")) > 2]  # a source may be empty
    if old := [entry[1] for entry in entries if entry[2] == "cgroup"]:
        raise NotIsolatedError(f"cgroup v1 is mounted at {old[0]}")
    places = [entry[1] for entry in entries if entry[2] == "cgroup2"]
    if not places:
        raise NotIsolatedError("cgroup v2 is not mounted")
    own = [line.removeprefix("0::") for line in membership.splitlines() if line.startswith("0::")]
    if not own:
        raise NotIsolatedError("this process is in no cgroup of version 2")
    folder = Path(places[0], own[0].lstrip("/"))
    if shlex.quote(str(folder)) != str(folder):
        raise NotIsolatedError(f"the cgroup's path {str(folder)!r} has characters that a shell changes")
    return folder


def check_cgroup(folder: Path) -> None:
    """Raises NotIsolatedError where Ray cannot make cgroups in this one."""
    kind = folder / "cgroup.type"
    if not kind.exists():  # the kernel's root has none; in it are all processes of the machine
        raise NotIsolatedError(f"{folder} is no cgroup of a container or a service")
    if (found := kind.read_text().strip()) != "domain":  # in a threaded one no cgroup can have the controller memory
        raise NotIsolatedError(f"{folder} is a cgroup of the type {found}")
    available = (folder / "cgroup.controllers").read_text().split()
    if missing := [name for name in CONTROLLERS if name not in available]:
        raise NotIsolatedError(f"{folder} has no controller {' and '.join(missing)}")
    if (cpus := count_cpus(folder)) <= MORE_THAN_CPUS:
        raise NotIsolatedError(f"of {cpus:g} CPUs Ray cannot reserve one")
    for path in (folder, *(folder / name for name in WRITTEN)):
        if not os.access(path, os.W_OK):
            raise NotIsolatedError(f"{path} cannot be written by user {os.getuid()}")


def count_cpus(folder: Path) -> float:
    """The CPUs that this process may use: those of the machine, or fewer by its affinity or the cgroup's limit."""
    cpus = float(len(os.sched_getaffinity(0)))
    limit = folder / "cpu.max"  # microseconds of CPU, or max, in so many microseconds
    if limit.exists():
        quota, period = limit.read_text().split()
        cpus = cpus if quota == "max" else min(cpus, int(quota) / int(period))
    return cpus


def main(more: Sequence[str] = ()) -> None:
    """Writes the flags for `ray start` to stdout, and more words behind them, or to stderr why there are none."""
    try:
        folder = find_cgroup(Path("/proc/self/mounts").read_text(), Path("/proc/self/cgroup").read_text())
        check_cgroup(folder)
    except (NotIsolatedError, OSError, ValueError) as error:
        print(f"Ray's own processes get no CPU and memory of their own: {error} (docs/cluster.md)", file=sys.stderr)
        return
    print(" ".join([FLAG, f"--cgroup-path={folder}", *more]))


if __name__ == "__main__":
    main(sys.argv[1:])
