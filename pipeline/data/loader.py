"""Builds each step while the one before trains: in a thread of the training process, or in a process of the node.

A thread that builds samples shares the interpreter with the one that launches kernels, and delays it. A process delays
nobody, plans once for all ranks of its node, and reads their rows once. It imports no torch, which would be two thirds
of its memory.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any, BinaryIO, cast

from pipeline.data import loader_process
from pipeline.data.batch_plan import StagePlan, Step, StepArrays
from pipeline.data.loader_messages import Begin, Message, Serve, StepRequest
from pipeline.data.node_feed import MakePlan
from pipeline.data.peers import Nodes
from pipeline.data.step_stream import receive, send
from pipeline.errors import WorkersLostError
from pipeline.runtime.rank import Rank

BuildStep = Callable[[int], Step]
"""Builds one rank's part of a step by its number, from 0."""
END_S = 2.0
"""Seconds that a process, or a build in a thread, gets to end by itself."""
CONNECT_S, CONNECT_AGAIN_S = 60.0, 0.05
"""Seconds after which a rank gives up to find the process of its node, and those between two attempts."""
REUSE_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
"""glibc's settings (mallopt(3)) for the process that builds samples: a step's arrays reuse the memory of those before.
With the defaults their pages are faulted in again: up to a seventh of its time among 8 nodes, nothing among 128."""


def prefetch(build: BuildStep, start: int, end: int, pin: bool = False) -> Iterator[Step]:
    """Yields the steps from `start` to `end`. Each is built, and pinned in memory, while the previous one trains."""

    def built(number: int) -> Step:
        step = build(number)
        if not pin:
            return step
        return replace(step, micro_steps=[[batch.pinned() for batch in batches] for batches in step.micro_steps])

    if start >= end:
        return
    # Nobody waits for the thread of such a pool at the end: it may wait for a service for `outage_s`.
    with ThreadPool(1) as pool:
        following = pool.apply_async(built, (start,))
        try:
            for number in range(start, end):
                current = following.get()
                if number + 1 < end:
                    following = pool.apply_async(built, (number + 1,))
                yield current
        finally:
            following.wait(END_S)


class ThreadLoader:
    """Builds steps where `step` is called."""

    def __init__(self, plan: StagePlan, rank: int, world_size: int) -> None:
        self.step: BuildStep = partial(plan.step, rank=rank, world_size=world_size)

    def close(self) -> None:
        """Does nothing: there is nothing to end."""


class ProcessLoader:
    """Builds steps in another process, which the ranks of a node share.

    The first rank of the node starts the process, which ends with that rank, however that one ends. It makes its plan
    when it is first needed.

    Args:
        make_plan: makes the plan; it is pickled.
        rank: this rank.
        name: unique on this machine, and the same for all ranks of the group.
    """

    def __init__(self, make_plan: MakePlan, rank: Rank, name: str) -> None:
        self._rank = rank
        address = f"\0{name}-{rank.first_on_node}"  # an abstract socket: unix(7)
        is_first = rank.local_rank == 0
        self._process = _started(address) if is_first else None
        self._first = Begin(make_plan, rank.on_node, rank.world_size) if is_first else None
        self._socket = _connected(address, rank.rank)
        self._stream = cast(BinaryIO, self._socket.makefile("rwb"))

    @property
    def process_id(self) -> int | None:
        """The process, if this rank started it."""
        return self._process.pid if self._process else None

    def begin(self) -> None:
        """Waits until the process has imported what it needs. Otherwise the first request does."""
        self._ask(None)

    def step(self, number: int) -> Step:
        """Returns a step from the process. One thread at a time may call it.

        Raises:
            InputError: as `StagePlan.step`, and so any other error.
            WorkersLostError: the process has ended.
        """
        answer = self._ask(StepRequest(number, self._rank.rank))
        assert isinstance(answer, StepArrays)
        return answer.as_tensors()

    def serve(self, address: str, secret: str) -> str:
        """Lets the process send rows to other nodes. Returns the location of its server; see `NodeFeed.serve`."""
        return str(self._ask(Serve(address, secret)))

    def share(self, nodes: Nodes) -> None:
        """Lets the nodes share the reading; see `NodeFeed.share`."""
        self._ask(nodes)

    def close(self) -> None:
        """Ends the process, if this rank started it. A `step` that waits in another thread fails."""
        with suppress(OSError):  # the process has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._process:
            self._process.kill()
            self._process.wait()
        with suppress(OSError):  # what was not sent is lost
            self._stream.close()
        self._socket.close()

    def _ask(self, message: Message | None) -> Any:
        answer = None
        try:
            for each in filter(None, (self._first, message)):
                send(each, self._stream)
                answer = receive(self._stream)
            self._first = None
        except (EOFError, OSError) as error:
            raise WorkersLostError(
                f"the process that builds the samples of rank {self._rank.rank} has ended{self._code()}; if Linux "
                "killed it for memory (dmesg says so), lower the stage's window_shards"
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _code(self) -> str:
        if not self._process:
            return ""
        try:
            return f" with exit code {self._process.wait(END_S)}"
        except subprocess.TimeoutExpired:
            return ""


Loader = ThreadLoader | ProcessLoader


def lone_loader(make_plan: MakePlan, rank: int, world_size: int, in_process: bool) -> Loader:
    """Returns the loader of a rank that is the only one of its node here; for measurements and tests."""
    if not in_process:
        return ThreadLoader(make_plan(), rank, world_size)
    return ProcessLoader(make_plan, Rank(rank, world_size, 0, 1), f"mars-loader-{secrets.token_hex(8)}")


def _started(address: str) -> subprocess.Popen[bytes]:
    """Starts the process, which listens at an abstract address from now on."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        words = [sys.executable, "-P", "-m", loader_process.__name__, str(listener.fileno()), str(os.getpid())]
        return subprocess.Popen(words, env=_environment(), pass_fds=[listener.fileno()])


def _connected(address: str, rank: int) -> socket.socket:
    """Connects to the process. The first rank of the node may be later than this one."""
    connection, deadline = socket.socket(socket.AF_UNIX), time.monotonic() + CONNECT_S
    while True:
        try:
            connection.connect(address)
            return connection
        except ConnectionRefusedError as error:
            if time.monotonic() > deadline:
                connection.close()
                raise WorkersLostError(
                    f"rank {rank} found no process that builds its samples after {CONNECT_S:g} s"
                ) from error
            time.sleep(CONNECT_AGAIN_S)


def _environment() -> dict[str, str]:
    """The process finds the modules that this one does, uses one CPU, and no GPU."""
    own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return REUSE_MEMORY | os.environ | own
