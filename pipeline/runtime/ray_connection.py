"""Connects to Ray: joins a running cluster, or starts one here."""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import ray

from pipeline.errors import OutageError, UsageError
from pipeline.runtime.background import in_background
from pipeline.runtime.cluster_watch import ANSWER_S, POLL_S, answers, ends_with_head, watch_cluster
from pipeline.runtime.fork_server import forked_python
from pipeline.runtime.machine import RAY_FOLDER, has_gpu_driver, has_ipv4, prepare_machine
from pipeline.runtime.ray_private import head_keeps_state, hide_data_progress, read_cluster_address
from pipeline.runtime.ray_start_private import (
    ON_LOOPBACK,
    processes_in_own_sessions,
    without_dashboard_and_log_monitor,
)
from pipeline.runtime.terminal import say as say
from pipeline.runtime.terminal import say_error as say_error
from pipeline.runtime.termination import interrupt_on_sigterm
from tokenization.patience import DEFAULT_OUTAGE_S, OUTAGE_VARIABLE
from tokenization.waiting import Wait

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_ARENA_MAX": "1",
}
"""glibc's settings (mallopt(3)) for a Ray that a job starts on a machine without a GPU: freed memory stays with the
process. With the defaults, large tensors are mapped again each time and their pages are faulted in, which takes about a
tenth of the demo's step. All threads use one arena, because the loop runs in a thread of Ray Train, whose own arena
would not keep freed memory."""
AS_URGENT_AS_THIS = {"RAY_worker_niceness": "0"}
"""Ray's default is 15: its workers would give way to every other process of the machine, Ray's own among them. On a
machine without a GPU the workers are what all of it waits for."""


WORKER_OUTPUT = "MARS_WORKER_OUTPUT"
"""Environment variable: 1 shows the output of Ray's workers and of the libraries in them."""


ADDRESS = "RAY_ADDRESS"
"""Environment variable with the address of the cluster."""


def connect_to_ray(forks_workers: bool = False) -> None:
    """Joins a running cluster (at RAY_ADDRESS, or on this machine), or starts Ray here, and says which.

    Args:
        forks_workers: fork this job's workers from a process that has imported the large libraries; see
            `pipeline.runtime.fork_server`.

    Raises:
        UsageError: RAY_ADDRESS is no address of a cluster.
        OutageError: there is no cluster at that address, or Ray cannot start here.
    """
    if not ray.is_initialized():
        _connect(forks_workers)
    from ray.data import DataContext  # as many seconds as the rest of Ray, which can start meanwhile

    # Jobs report their own progress; Ray Data's tables would hide it.
    DataContext.get_current().enable_progress_bars = False
    # Its memory warnings count torch's imports, which all workers share.
    DataContext.get_current().issue_detectors_config.detectors = []
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # What it raises reaches the job, which says it in one line; Ray Data would print a traceback before.
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)
    hide_data_progress()


def starts_ray_here() -> bool:
    """True if `connect_to_ray` would start a Ray for this job, with the devices of this machine alone."""
    return not ray.is_initialized() and _address() == "local"


class _Own:
    cluster = False


def is_own_cluster() -> bool:
    """True if `connect_to_ray` started a Ray for this job, which never gets other nodes."""
    return ray.is_initialized() and _Own.cluster


def check_gpus(use_gpu: bool) -> None:
    """Checks that a job which uses GPUs has one, if it would start a Ray of its own; a cluster may grow.

    Raises:
        UsageError: this machine has none.
    """
    if not use_gpu or not starts_ray_here():
        return
    import torch  # seconds, which jobs without a GPU need not wait for

    if not torch.cuda.is_available():
        raise UsageError(
            "use_gpu is set, and torch finds no GPU on this machine, where Ray would be started; name a cluster with "
            f"{ADDRESS}, or set use_gpu to False"
        )


def _address() -> str:
    # A killed cluster leaves its address behind, and every job would wait for it for minutes.
    return os.environ.get(ADDRESS, "") or ("auto" if is_cluster(read_cluster_address()) else "local")


def _connect(forks_workers: bool) -> None:
    wanted = os.environ.get(ADDRESS, "")
    if wanted:
        check_address(wanted)
    address = _address()
    # The libraries' deprecation warnings are for this project's developers, not for users.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    small = address == "local" and not has_gpu_driver()
    if small:
        for name, value in (KEEP_FREED_MEMORY | AS_URGENT_AS_THIS).items():
            os.environ.setdefault(name, value)
    joins = None if address == "local" else read_cluster_address() if address == "auto" else address
    here: dict[str, Any] = {}
    shows_output = os.environ.get(WORKER_OUTPUT, "0") == "1"
    if not joins:
        prepare_machine()
        here = {} if has_ipv4() else ON_LOOPBACK
    started = threading.Event()
    if joins:
        watch_cluster(joins, lambda: not started.is_set() or ray.is_initialized())
    awaited = f"{_named(wanted or address)} to take this job" if joins else "Ray to start on this machine"
    try:
        with _saying(awaited), ExitStack() as ways:
            if not joins:
                ways.enter_context(processes_in_own_sessions())
            if small:
                ways.enter_context(without_dashboard_and_log_monitor(shows_output))
            ray.init(
                address,
                include_dashboard=False if small else None,
                logging_level=logging.ERROR,
                runtime_env=_environment_of_workers(address, forks_workers),
                log_to_driver=shows_output,
                **here,
            )
    except JOIN_ERRORS as error:
        if not joins:
            logs = f"{os.environ.get(RAY_FOLDER, '/tmp')}/ray/session_latest/logs"
            raise OutageError(
                f"Ray could not start on this machine: {error}; its logs are in {logs}; see that memory and CPUs "
                "are free, and run the same command again"
            ) from error
        raise OutageError(f"{_named(wanted or address)} cannot be joined: {error}. {REMEDY}") from error
    finally:
        started.set()
    interrupt_on_sigterm()  # Ray's own handler ends the job without a word
    _Own.cluster = not joins
    gcs_address = ray.get_runtime_context().gcs_address
    if joins:
        say(f"Ray: joined the cluster at {gcs_address}")
    else:
        watch_cluster(gcs_address, ray.is_initialized)
        say(f"Ray: started here, for this job, with {ray.cluster_resources().get('CPU', 0):g} CPUs")
    if not head_keeps_state():
        ends_with_head()


@contextmanager
def _saying(awaited: str) -> Iterator[None]:
    """Says what is awaited if the enclosed block takes long."""

    def follow(ended: threading.Event) -> None:
        wait = Wait(say)
        while not ended.wait(POLL_S):
            wait.still(awaited)

    with in_background(follow, "says what is awaited"):
        yield


JOIN_ERRORS = (ConnectionError, RuntimeError, TimeoutError, ray.exceptions.RayError)
"""What `ray.init` raises on a cluster that does not answer, ends meanwhile, has another version, or wants a token."""


def _environment_of_workers(address: str, forks_workers: bool) -> dict[str, Any]:
    """What workers on another Ray need of this process's environment (one that is started here inherits all of it), and
    the Python that they run."""
    wanted, environment = os.environ.get(OUTAGE_VARIABLE, ""), dict[str, Any]()
    if address != "local" and wanted and float(wanted) != DEFAULT_OUTAGE_S:
        environment["env_vars"] = {OUTAGE_VARIABLE: wanted}
    if forks_workers:
        environment["py_executable"] = forked_python()
    return environment


REMEDY = f"Start one with `ray start --head`, correct {ADDRESS}, or unset it to use Ray on this machine"


def _named(address: str) -> str:
    return "the Ray cluster of this machine" if address == "auto" else f"the Ray cluster at {address!r}"


def check_address(address: str) -> None:
    """Checks an address that jobs can join: `HOST:PORT`, `auto` or `local`.

    Raises:
        UsageError: it has another form.
        OutageError: nothing listens there.
    """
    if address == "local":
        return
    if address == "auto":
        if not is_cluster(read_cluster_address()):
            raise OutageError(f"{ADDRESS} is 'auto', and no Ray cluster runs on this machine. {REMEDY}")
        return
    scheme, separator, _ = address.partition("://")
    if separator:
        is_dashboard = scheme.startswith("http")
        what = "the address of a dashboard" if is_dashboard else "an address of Ray Client"
        submit = f", or use `ray job submit --address {address} -- COMMAND`" if is_dashboard else ""
        raise UsageError(
            f"{ADDRESS} is {address!r}, {what}, which jobs cannot join: give HOST:PORT of the head's GCS, as "
            f"`ray start` prints it (port 6379 by default){submit}"
        )
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):[0-9]{1,5}", address):
        raise UsageError(f"{ADDRESS} is {address!r}, but must be HOST:PORT, 'auto' or 'local'")
    if not answers(address):
        raise OutageError(f"nothing listens at {ADDRESS} {address!r}. {REMEDY}")
    if not is_cluster(address):
        raise OutageError(f"what listens at {ADDRESS} {address!r} is no Ray cluster, or it hangs. {REMEDY}")


def is_cluster(address: str | None) -> bool:
    """True if a server at `HOST:PORT` speaks gRPC, as Ray's GCS does. Ray itself would wait for minutes for another.

    A cluster with TLS is not asked that.
    """
    if address is None or not answers(address):
        return False
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return True
    # Ray uses no proxy either.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
        except grpc.FutureTimeoutError:
            return False
    return True
