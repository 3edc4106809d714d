"""Nodes on this machine: network namespaces of Linux whose links to each other are throttled. Needs root and `tc`."""

import ctypes
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.runtime.termination import cleaning_up

CLONE_NEWNET = 0x40000000
"""From Linux's sched.h: the kind of namespace that `setns` enters."""
INTERFACE = "mars0"
"""The nodes' name of their interface."""
NAMESPACES = Path("/var/run/netns")
"""Where `ip` keeps named namespaces."""
OWN_NAME = re.compile(r"m(\d+)x\d+(?:b|[nv]\d+)")
"""Names of bridges, namespaces and their outside links; the first number is that of the process that made them."""
_CALLS = itertools.count()
SUBNET = "10.213.77"
"""Addresses that exist only between the namespaces."""


def check_can_throttle() -> None:
    """Raises UsageError if this process may not make namespaces, or the tools are missing."""
    missing = [tool for tool in ("ip", "tc") if not shutil.which(tool)]
    if missing or os.geteuid():
        what = f"{' and '.join(missing)} are missing (package iproute2)" if missing else "only root may make namespaces"
        raise UsageError(f"links cannot be throttled here: {what}")


@contextmanager
def throttled_nodes(count: int, mbit_per_s: float) -> Iterator[list[str]]:
    """Makes `count` nodes that send at most `mbit_per_s` each. Yields their namespaces' names.

    They are removed at the end, also by SIGTERM and Ctrl-C; those of a process that was killed, by the next one.
    """
    _remove(_left_over())
    prefix = f"m{os.getpid()}x{next(_CALLS)}"  # names of interfaces have at most 15 characters, and go late
    bridge, names = f"{prefix}b", [f"{prefix}n{number}" for number in range(count)]
    outside = [f"{prefix}v{number}" for number in range(count)]
    with cleaning_up(lambda: _remove([*outside, bridge, *names])):
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "link", "set", bridge, "up")
        for number, name in enumerate(names):
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", outside[number], "type", "veth", "peer", "name", INTERFACE, "netns", name)
            _run("ip", "link", "set", outside[number], "master", bridge, "up")
            inside = ("ip", "-n", name)
            _run(*inside, "address", "add", f"{address_of(number)}/24", "dev", INTERFACE)
            _run(*inside, "link", "set", "lo", "up")
            _run(*inside, "link", "set", INTERFACE, "up")
            rate = ("tbf", "rate", f"{mbit_per_s}mbit", "burst", "256kb", "latency", "200ms")
            _run("tc", "-n", name, "qdisc", "add", "dev", INTERFACE, "root", *rate)
        yield names


def _left_over() -> list[str]:
    """Names of links and namespaces whose process has ended without removing them."""
    folders = (Path("/sys/class/net"), NAMESPACES)
    names = [path.name for folder in folders if folder.is_dir() for path in folder.iterdir()]
    owned = [match for name in names if (match := OWN_NAME.fullmatch(name))]
    return [match[0] for match in owned if not Path("/proc", match[1]).exists()]


def _remove(names: list[str]) -> None:
    """Removes links and namespaces as far as they are there."""
    for name in names:
        kind = "netns" if "n" in name else "link"
        subprocess.run(["ip", kind, "delete", name], capture_output=True, check=False)


def address_of(number: int) -> str:
    """The address of a node by its number, from 0."""
    return f"{SUBNET}.{number + 1}"


def enter(name: str) -> None:
    """Moves this process into a node. Its later sockets are the node's."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(NAMESPACES / name, os.O_RDONLY)
    try:
        if libc.setns(file, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the namespace {name} cannot be entered")
    finally:
        os.close(file)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{' '.join(words)!r} failed: {done.stderr.strip()}")
