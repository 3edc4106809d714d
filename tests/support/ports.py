"""Ports of this machine: free ones, servers in threads, and waiting for what listens."""

import socket
import socketserver
import threading
import time
import urllib.error
import urllib.request

from pipeline.runtime.local_cluster import free_port as free_port


def serve_in_thread(server: socketserver.BaseServer) -> None:
    """Serves until `shutdown`, which takes half a second with the library's own pause."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


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


def wait_for_jobs_api(port: int, token: str, deadline: float) -> None:
    """Waits until the dashboard at the port lists jobs, or `time.monotonic()` is past the deadline.

    Raises:
        TimeoutError: it does not.
    """
    wait_until_open(port, deadline)
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(asked, timeout=10):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise TimeoutError(f"the dashboard at port {port} lists no jobs")
