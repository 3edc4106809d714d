"""Nodes on this machine: network namespaces of Linux whose links to each other are throttled. Needs root and `tc`."""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UsageError

CLONE_NEWNET = 0x40000000
"""From Linux's sched.h: the kind of namespace that `setns` enters."""
INTERFACE = "mars0"
"""The nodes' name of their interface."""
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
    """Makes `count` nodes that send at most `mbit_per_s` each. Yields their namespaces' names."""
    prefix = f"m{os.getpid()}x{next(_CALLS)}"  # names of interfaces have at most 15 characters, and go late
    bridge, names = f"{prefix}b", [f"{prefix}n{number}" for number in range(count)]
    outside = [f"{prefix}v{number}" for number in range(count)]
    try:
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
    finally:
        for link in (*outside, bridge):
            subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def address_of(number: int) -> str:
    """The address of a node by its number, from 0."""
    return f"{SUBNET}.{number + 1}"


def enter(name: str) -> None:
    """Moves this process into a node. Its later sockets are the node's."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(Path("/var/run/netns", name), os.O_RDONLY)
    try:
        if libc.setns(file, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the namespace {name} cannot be entered")
    finally:
        os.close(file)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{' '.join(words)!r} failed: {done.stderr.strip()}")
