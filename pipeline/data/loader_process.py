"""The process that builds steps for a `ProcessLoader`: python -m pipeline.data.loader_process SOCKET PARENT."""

import os
import signal
import socket
import sys
import threading
import time
from typing import BinaryIO, cast

import torch

from pipeline.data.batch_plan import StagePlan, Step
from pipeline.data.step_stream import receive, send, sendable

WATCH_S = 0.5
"""Seconds between two looks for the parent."""


def main(file: int, parent: int) -> None:
    """Builds the steps that are asked for, until the parent closes the socket or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    stream = cast(BinaryIO, socket.socket(fileno=file).makefile("rwb"))
    try:
        make_plan, rank, world_size = receive(stream)
        plan: StagePlan | None = None
        while True:
            number = receive(stream)
            try:
                plan = plan or make_plan()
                answer: Step | Exception = plan.step(number, rank, world_size)
            except Exception as error:  # whatever it is, the rank raises it
                answer = sendable(error)
            send(answer, stream)
    except (EOFError, ConnectionError):
        return


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone. Other children of the parent may hold the socket open."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
    os._exit(0)  # threads that fetch ahead are not waited for
