"""Validation beside the training: an actor that validates checkpoints while the workers train on."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.actor import ActorProxy

from pipeline.config.scaling import ScalingConfig
from pipeline.errors import InputError
from pipeline.runtime.background import in_background
from pipeline.runtime.messages import Messages, relaying_messages
from pipeline.runtime.terminal import say
from pipeline.runtime.termination import Termination
from pipeline.runtime.torch_private import fail_on_too_many_graphs
from pipeline.training.checkpoint_validator import CheckpointValidator
from pipeline.training.due import MOST_AWAITED
from pipeline.training.stage_run import StageRun
from tokenization.files.content import one_line
from tokenization.waiting import Wait

POLL_S = 5.0
"""Seconds between two looks for new checkpoints."""
WAIT_S = 1.0
FINISH_S = 60.0
"""Seconds for which what could not be read or written is tried again when the training has ended."""
LOWEST_PRIORITY = 19
CALLS_AT_ONCE = 3
"""`follow`, `take` and `finish`."""


class AsyncValidation(Messages):
    """Actor that validates the checkpoints of a stage one after the other.

    If its node is lost, Ray starts it on another one. What is done is in the stage's folder.

    Args:
        run: the stage.
        world_size: number of ranks that train.
    """

    def __init__(self, run: StageRun, world_size: int) -> None:
        super().__init__()
        self._one_at_a_time, self._ended = threading.Lock(), threading.Event()
        device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        if device.type == "cpu":
            os.nice(LOWEST_PRIORITY)
            torch.set_num_threads(1)
        fail_on_too_many_graphs()
        self._stage, self._said_that_it_lags = f"stage {run.stage_number}", False
        self._put_off: set[str] = set()
        self._validator = CheckpointValidator(run, device, world_size, self._keep)

    @ray.method
    def follow(self) -> None:
        """Validates checkpoints as they are completed, until `finish` was called."""
        while not self._ended.wait(POLL_S):
            self._validate_due()

    @ray.method
    def finish(self) -> None:
        """Validates the checkpoints that are there, and ends. It tries for `FINISH_S` at least."""
        until = time.monotonic() + FINISH_S
        self._validate_due()
        while self._due() and time.monotonic() < until:
            time.sleep(WAIT_S)
            self._validate_due()
        if left := self._due():
            self._keep(f"{self._stage}: {', '.join(left)}: not validated")
        self._ended.set()
        with self._one_at_a_time:
            try:
                self._validator.close()
            except (InputError, OSError) as error:
                self._keep(f"{self._stage}: checkpoints that were kept for validation stay: {one_line(error)}")

    def _validate_due(self) -> None:
        with self._one_at_a_time:
            due = self._due()
            if len(due) >= MOST_AWAITED and not self._ended.is_set():
                self._say_that_it_lags(len(due))
            for name in due:
                try:
                    self._validator.validate(name)
                except OSError as error:  # a storage that is away, or a full disk
                    if name not in self._put_off:
                        self._put_off.add(name)
                        self._keep(f"{self._stage}: {name} is not validated yet, and tried again: {one_line(error)}")
                    return
                except Exception as error:  # of any kind: validation must not end the training
                    self._validator.leave_out(name)
                    self._keep(f"{self._stage}: {name} is not validated: {one_line(error)}")

    def _say_that_it_lags(self, waiting: int) -> None:
        if not self._said_that_it_lags:
            self._said_that_it_lags = True
            self._keep(
                f"{self._stage}: validation lags behind: {waiting} checkpoints wait for it, and of more than "
                f"{MOST_AWAITED} the oldest are removed; validate less often (validate_every_steps, "
                "sample_every_steps), or fewer rows (validation_rows)"
            )

    def _due(self) -> list[str]:
        try:
            return self._validator.due()
        except (InputError, OSError) as error:
            self._keep(f"{self._stage}: the checkpoints cannot be listed for validation: {one_line(error)}")
            return []


@contextmanager
def validating_beside(run: StageRun, scaling: ScalingConfig, termination: Termination) -> Iterator[None]:
    """Validates the stage's checkpoints on other resources than the workers', if the recipe says so.

    At the end of the training it waits until the last checkpoint is validated, too. If the training ends early, the
    next attempt validates what is missing.
    """
    if not scaling.async_validation or run.verify_only:
        yield
        return
    needs = scaling.validator_needs
    amounts = dict(needs.resources)
    options: dict[str, Any] = {"num_cpus": amounts.pop("CPU"), "num_gpus": amounts.pop("GPU", 0.0)}
    options |= {"resources": amounts, "label_selector": dict(needs.label_selector)}
    options |= {"max_concurrency": CALLS_AT_ONCE, "max_restarts": -1, "max_task_retries": -1}
    actor: Any = ray.remote(**options)(AsyncValidation).remote(run, scaling.num_workers)
    following = actor.follow.remote()

    def watch(ended: threading.Event) -> None:
        while not ended.wait(WAIT_S):
            if ray.wait([following], timeout=0)[0]:
                _say_why_it_ended(run, following)
                return

    try:
        with relaying_messages(actor):
            with in_background(watch, "watches validation"):
                yield
            _finish(run, actor, termination)
    finally:
        ray.kill(actor)


def _say_why_it_ended(run: StageRun, following: ray.ObjectRef[None]) -> None:
    try:
        ray.get(following)
    except ray.exceptions.RayError as error:
        say(f"stage {run.stage_number}: nothing is validated any more, the training goes on: {one_line(error)}")


def _finish(run: StageRun, actor: ActorProxy[AsyncValidation], termination: Termination) -> None:
    """Waits for the validation of the last checkpoint, unless the job was asked to end."""
    wait = Wait(lambda line: say(f"stage {run.stage_number}: {line}"))
    finishing = actor.finish.remote()
    while not ray.wait([finishing], timeout=WAIT_S)[0]:
        if termination.requested.is_set():
            say(f"stage {run.stage_number}: its last checkpoint is not validated, since the job was asked to end")
            return
        wait.still("the validation of the last checkpoint")
    _say_why_it_ended(run, finishing)
