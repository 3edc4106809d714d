"""Trains a stage in attempts: as many as needed, each with as many workers as are available.

An attempt resumes from the newest checkpoint. A failure that need not repeat (a lost worker or node, a hang) starts
another attempt, as long as there is a new checkpoint between attempts now and then.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import ray
from ray.actor import ActorProxy

from pipeline.config.scaling import ScalingConfig
from pipeline.errors import NodeLostError, ResizeError, WorkersLostError
from pipeline.launch.monitor import StageMonitor
from pipeline.runtime.background import in_background
from pipeline.runtime.capacity import request_nodes, workers_that_fit
from pipeline.runtime.ray_connection import WORKER_OUTPUT
from pipeline.runtime.shortage import check_obtainable
from pipeline.runtime.terminal import say
from pipeline.runtime.termination import ASKED, Termination
from pipeline.training.stop_request import StopRequest
from tokenization.config.node_labels import on_a_node
from tokenization.waiting import Wait

POLL_S = 1.0
ASK_AGAIN_S = 2.0
"""Seconds between two requests to the autoscaler, which others overwrite; far below any cluster's idle timeout."""
RETRY_PAUSE_S = 5.0
"""Seconds before another attempt, multiplied by the number of attempts in a row that saved nothing."""

Log = Callable[[str], None]
logger = logging.getLogger(__name__)


class Launch(Protocol):
    """A stage that is trained in attempts."""

    @property
    def scaling(self) -> ScalingConfig:
        """Returns the number and the resources of the workers."""
        ...

    @property
    def termination(self) -> Termination:
        """True if the job was asked to end."""
        ...

    def attempt(self, scaling: ScalingConfig) -> None:
        """Runs one attempt with the workers that it gets. Returns at the stage's end."""
        ...

    def saved_step(self) -> int:
        """Step of the newest checkpoint, or 0 if there is none."""
        ...

    def log(self, line: str) -> None:
        """Logs a line for the operator."""
        ...


def run_attempts(launch: Launch) -> None:
    """Runs attempts until one reaches the stage's end.

    Raises:
        PreemptedError: the job was asked to end; or nodes are about to be removed and the number of workers is fixed.
        WorkersLostError: too many attempts in a row saved nothing.
        Exception: any other error that ends an attempt on purpose.
    """
    scaling, termination = launch.scaling, launch.termination
    with _requesting_all_workers(scaling):
        unsaved_in_row = 0
        while True:
            termination.nobody_trains.set()
            before, workers = launch.saved_step(), _available_workers(scaling, termination, launch.log)
            try:
                return launch.attempt(replace(scaling, num_workers=workers))
            except ResizeError as error:
                launch.log(str(error))
            except NodeLostError as error:
                if not scaling.min_workers:
                    raise
                launch.log(str(error))
            except WorkersLostError as error:
                unsaved_in_row = 0 if launch.saved_step() > before else unsaved_in_row + 1
                if unsaved_in_row > scaling.max_retries:
                    raise WorkersLostError(
                        f"{unsaved_in_row} attempts in a row saved nothing (scaling.max_retries), the last one because "
                        f"{error}; run the same command again to resume; {WORKER_OUTPUT}=1 in its environment shows "
                        "what the workers print"
                    ) from error
                row = f" ({unsaved_in_row} in a row saved nothing; at most {scaling.max_retries} may)"
                launch.log(
                    "an attempt has ended, another one resumes from the newest checkpoint"
                    f"{row if unsaved_in_row else ''}: {error}"
                )
                termination.requested.wait(RETRY_PAUSE_S * unsaved_in_row)


def check_workers(scaling: ScalingConfig, validates_beside: bool = False) -> None:
    """Checks that the cluster which the job has joined has, or may get, nodes for the workers.

    Args:
        scaling: number and needs of the workers.
        validates_beside: a process validates beside them.

    Raises:
        UsageError: it never will.
    """
    least = scaling.min_workers or scaling.num_workers
    remedy = "change scaling.num_workers, cpus_per_worker, use_gpu, label_selector or custom_resources"
    if validates_beside and scaling.use_gpu:
        remedy += "; or set scaling.async_validation=False, which leaves a GPU out"
    beside = [scaling.validator_needs] if validates_beside else []
    check_obtainable([scaling.worker_needs] * least + beside, remedy)


@contextmanager
def watching_attempt(
    monitor: ActorProxy[StageMonitor],
    termination: Termination,
    scaling: ScalingConfig,
    max_workers: int,
    validates: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """Lets the monitor stop the running attempt.

    It stops when the job was asked to end, and when it has fewer than `max_workers` workers and there is room for more.
    `validates` tells if the validation beside the workers, where there is one, still lives.
    """

    def follow(ended: threading.Event) -> None:
        missing, grows_at = max_workers - scaling.num_workers, math.inf
        while not ended.wait(POLL_S):
            with _logging_errors():
                if termination.nobody_trains.is_set() and ray.get(monitor.has_workers.remote()):
                    termination.nobody_trains.clear()
                if missing > 0 and grows_at == math.inf and ray.get(monitor.has_trained.remote()):
                    # Counted from here: a group that takes longer to start would be stopped after its first step.
                    grows_at = time.monotonic() + scaling.grow_after_s
            if termination.requested.is_set():
                say(f"{ASKED}: it writes a checkpoint after the next step; ask again to end it at once")
                monitor.request_stop.remote(StopRequest("preempted", ASKED))
                return
            if missing <= 0 or time.monotonic() < grows_at:
                continue
            with _logging_errors():
                if more := room_to_grow(scaling, missing, validates()):
                    reason = (
                        f"there is room for {scaling.num_workers + more} workers, but only {scaling.num_workers} train"
                    )
                    monitor.request_stop.remote(StopRequest("resize", reason))
                    grows_at = time.monotonic() + scaling.grow_after_s

    with in_background(follow, "follows an attempt"):
        yield


@contextmanager
def _requesting_all_workers(scaling: ScalingConfig) -> Iterator[None]:
    """Keeps asking the cluster's autoscaler, if there is one, for all workers while fewer of them train.

    The request is repeated because Ray Train's own coordinator replaces it, and asks for nothing when an attempt ends.
    Idle nodes would then be removed, and no missing ones started.
    """
    if not scaling.min_workers:
        yield
        return

    def ask(ended: threading.Event) -> None:
        while not ended.is_set():
            with _logging_errors():
                request_nodes(scaling.worker_needs, scaling.num_workers + _gpus_beside(scaling))
            ended.wait(ASK_AGAIN_S)

    try:
        with in_background(ask, "asks for workers"):
            yield
    finally:
        if ray.is_initialized():
            request_nodes(scaling.worker_needs, 0)


@contextmanager
def _logging_errors() -> Iterator[None]:
    """Logs errors of a polling thread, so that it survives one that fails, as while Ray's head is busy."""
    try:
        yield
    except Exception as error:  # Ray raises errors of many kinds here
        logger.warning("%s; trying again", error)


def _available_workers(scaling: ScalingConfig, termination: Termination, log: Log) -> int:
    """Returns the number of workers to start with.

    If the number is fixed, it is that number, and Ray waits for them. Otherwise it waits up to `wait_for_all_s` for
    room for all of them, and then takes as many as there is room for once that is enough.
    """
    waited_from, wait = time.monotonic(), Wait(log)
    while True:
        termination.check()
        if not scaling.min_workers:
            return scaling.num_workers
        fit, now = _workers_that_fit(scaling), time.monotonic()
        if fit == scaling.num_workers or (fit >= scaling.min_workers and now - waited_from >= scaling.wait_for_all_s):
            if fit < scaling.num_workers:
                log(f"{fit} of {scaling.num_workers} workers begin; the others join when there is room")
            return fit
        where = on_a_node(scaling.label_selector)
        wait.still(f"{scaling.num_workers} workers{where}, there is room for {fit}; `ray status` shows the cluster")
        termination.requested.wait(POLL_S)


def _workers_that_fit(scaling: ScalingConfig) -> int:
    """The number of workers that there is room for, with a GPU left for the validation that starts with them."""
    beside = _gpus_beside(scaling)
    return max(0, workers_that_fit(scaling.worker_needs, scaling.num_workers + beside) - beside)


def room_to_grow(scaling: ScalingConfig, missing: int, validates: bool) -> int:
    """The number of workers that another attempt would have more than this one, at most `missing`.

    The GPU that a validation has given up by dying is not among them: another attempt's validation takes it again.
    """
    given_up = 0 if validates else _gpus_beside(scaling)
    return max(0, workers_that_fit(scaling.worker_needs, missing + given_up) - given_up)


def _gpus_beside(scaling: ScalingConfig) -> int:
    """GPUs that an attempt takes besides those of its workers. Each is on a node that a worker would fit on."""
    return 1 if scaling.async_validation and scaling.use_gpu else 0
