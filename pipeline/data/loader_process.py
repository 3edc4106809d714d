"""The process that builds the steps of a node's ranks: python -m pipeline.data.loader_process LISTENER PARENT.

Each rank sends messages over a connection of its own, and receives one answer to each; see `loader_messages`.
"""

import os
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, BinaryIO, cast

from pipeline.data.loader_messages import Begin, Message, Serve, StepRequest
from pipeline.data.node_feed import NodeFeed
from pipeline.data.peers import Nodes
from pipeline.data.step_stream import receive, send, sendable

WATCH_S = 0.5
"""Seconds between two looks for the parent."""
CREDENTIALS = struct.Struct("iII")
"""Process, user and group at the other end of a local socket: unix(7), SO_PEERCRED."""


class LoaderProcess:
    """What the process knows. Its connections share it."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._feed: NodeFeed

    def accept(self, listener: socket.socket) -> None:
        """Serves all connections of this user, each in a thread."""
        while True:
            connection, _ = listener.accept()
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            if CREDENTIALS.unpack(credentials)[1] != os.geteuid():
                connection.close()
                continue
            stream = cast(BinaryIO, connection.makefile("rwb"))
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: BinaryIO) -> None:
        try:
            while True:
                message = receive(stream)
                try:
                    answer = self._answer(message)
                except Exception as error:  # whatever it is, the rank raises it
                    answer = sendable(error)
                send(answer, stream)
        except (EOFError, OSError):
            return

    def _answer(self, message: Message) -> Any:
        match message:
            case Begin():
                self._feed = NodeFeed(message.make_plan, message.ranks, message.world_size)
                self._begun.set()
                return None
            case Serve():
                return self._feed.serve(message.address, message.secret)
            case Nodes():
                return self._feed.share(message)
            case StepRequest():
                self._begun.wait()  # the node's first rank may be later than this one
                return self._feed.step(message.number, message.rank)


def main(listener: int, parent: int) -> None:
    """Builds the steps that are asked for, until the parent is gone or ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    LoaderProcess().accept(socket.socket(fileno=listener))


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone, without waiting for threads that fetch ahead."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
