"""Free ports of this machine."""

import socket
import time

from pipeline.runtime.local_cluster import free_port as free_port


def wait_until_open(port: int, deadline: float) -> None:
    """Waits until something listens at the port, or `time.monotonic()` is past the deadline.

    Polling with Ray's own command would import Ray each time.
    """
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
