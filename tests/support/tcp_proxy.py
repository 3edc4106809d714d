"""A TCP connection that a test can cut."""

import socket
import threading
from contextlib import suppress


class TcpProxy:
    """Forwards connections from 127.0.0.1 to `target_port` until `cut`; then refuses them until `mend`."""

    def __init__(self, target_port: int) -> None:
        self._target_port, self._cut = target_port, False
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut = True
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def mend(self) -> None:
        self._cut = False

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            if self._cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target_port))
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                sink.sendall(content)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
