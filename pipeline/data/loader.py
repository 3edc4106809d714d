"""Builds each step while the one before trains: in a thread of the training process, or in a process beside it.

A thread that builds samples shares the interpreter with the one that launches kernels, and delays it. A process delays
nobody, and takes a second copy of the imported libraries: 0.4 GB, and seconds of a CPU when it starts.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import BinaryIO, cast

from pipeline.data import loader_process
from pipeline.data.batch_plan import StagePlan, Step
from pipeline.data.step_stream import receive, send
from pipeline.errors import WorkersLostError

BuildStep = Callable[[int], Step]
"""Builds one rank's part of a step by its number, from 0."""
END_S = 2.0
"""Seconds that a process, or a build in a thread, gets to end by itself."""


def prefetch(build: BuildStep, start: int, end: int, pin: bool = False) -> Iterator[Step]:
    """Yields the steps from `start` to `end`. Each is built, and pinned in memory, while the previous one trains."""

    def built(number: int) -> Step:
        step = build(number)
        if not pin:
            return step
        return replace(step, micro_steps=[[batch.pinned() for batch in batches] for batches in step.micro_steps])

    if start >= end:
        return
    # Nobody waits for the thread of such a pool at the end: it may wait for S3 for `outage_s`.
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
    """Builds steps in another process, which ends with this one, however this one ends.

    The process starts at once, and makes its plan when the first step is asked for.

    Args:
        make_plan: makes the plan; it is pickled.
        rank, world_size: the rank whose part is built.
    """

    def __init__(self, make_plan: Callable[[], StagePlan], rank: int, world_size: int) -> None:
        self._first: tuple[Callable[[], StagePlan], int, int] | None = (make_plan, rank, world_size)
        self._rank = rank
        self._socket, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-P", "-m", loader_process.__name__, str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(words, env=_environment(), pass_fds=[theirs.fileno()])
        self._stream = cast(BinaryIO, self._socket.makefile("rwb"))

    @property
    def process_id(self) -> int:
        return self._process.pid

    def step(self, number: int) -> Step:
        """Returns a step from the process. One thread at a time may call it.

        Raises:
            InputError: as `StagePlan.step`, and so any other error.
            WorkersLostError: the process has ended.
        """
        try:
            if self._first:
                send(self._first, self._stream)
                self._first = None
            send(number, self._stream)
            answer = receive(self._stream)
        except (EOFError, OSError) as error:
            raise WorkersLostError(
                f"the process that builds the samples of rank {self._rank} has ended{self._code()}; if Linux killed it "
                "for memory (dmesg says so), lower the stage's window_shards"
            ) from error
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Step)
        return answer

    def close(self) -> None:
        """Ends the process. A `step` that waits in another thread fails."""
        with suppress(OSError):  # the process has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(OSError):  # what was not sent is lost
            self._stream.close()
        self._socket.close()

    def _code(self) -> str:
        try:
            return f" with exit code {self._process.wait(END_S)}"
        except subprocess.TimeoutExpired:
            return ""


Loader = ThreadLoader | ProcessLoader


def start_loader(make_plan: Callable[[], StagePlan], rank: int, world_size: int, in_process: bool) -> Loader:
    """Returns the loader of a rank's steps; `make_plan` must be picklable if it is a process."""
    return ProcessLoader(make_plan, rank, world_size) if in_process else ThreadLoader(make_plan(), rank, world_size)


def _environment() -> dict[str, str]:
    """The process finds the modules that this one does, uses one CPU, and no GPU."""
    own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | own
