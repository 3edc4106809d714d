"""What is not public of Ray's start; written against Ray 2.60.0.

Each function says what it is used for. `tests/pipeline/runtime/test_ray_private.py` has a test for each name. Imports
are inside the functions, so that a job that joins a cluster does not load them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pipeline.runtime.process_groups import end_with_this_process

ON_LOOPBACK = {"_node_ip_address": "127.0.0.1"}
"""An argument of `ray.init` that puts a Ray which a job starts on the loopback address. Used on machines without a
route for IPv4, where Ray would take an address that its processes do not reach."""


@contextmanager
def _replaced(owner: object, name: str, instead: object) -> Iterator[None]:
    usual = getattr(owner, name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, usual)


@contextmanager
def processes_in_own_sessions() -> Iterator[None]:
    """Starts Ray's processes in sessions of their own while the enclosed block runs. Used for the Ray that a job
    starts: a signal to the job's process group, as terminals, shells and batch systems send it, reaches the job alone,
    which then ends its Ray. All of Ray's processes end with the job, also if that is killed."""
    from ray._private import services

    usual, started = services.ConsolePopen, []

    def start(*words: Any, **how: Any) -> Any:
        process = usual(*words, **how, start_new_session=True)
        started.append(process.pid)
        return process

    try:
        with _replaced(services, "ConsolePopen", start):
            yield
    finally:
        if started:
            end_with_this_process(started)


@contextmanager
def without_dashboard_and_log_monitor(shows_output: bool) -> Iterator[None]:
    """Leaves out Ray's dashboard and log monitor while the enclosed block starts it. Used for the Ray that a job starts
    on a machine without a GPU, where each process counts. Without its web pages, the dashboard has nothing but Ray's
    usage statistics, and `ray.init` waits for it; the log monitor has nothing to do unless workers' output is shown."""
    from ray._private import services
    from ray._private.node import Node

    with ExitStack() as left_out:
        left_out.enter_context(_replaced(services, "start_api_server", lambda *_, **__: ("", None)))
        if not shows_output:
            left_out.enter_context(_replaced(Node, "start_log_monitor", lambda _: None))
        yield
