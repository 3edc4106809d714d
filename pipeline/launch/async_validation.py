"""Validation beside the training: an actor that validates checkpoints while the workers train on."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
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
MOST_RESTARTS = 10
"""Of an attempt's validation. One that always dies is given up."""
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
        self._run, self._world_size = run, world_size
        self._device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        if self._device.type == "cpu":
            os.nice(LOWEST_PRIORITY)
            torch.set_num_threads(1)
        fail_on_too_many_graphs()
        self._stage, self._said_that_it_lags = f"stage {run.stage_number}", False
        self._has_validated, self._put_off = False, set[str]()

    @cached_property
    def _validator(self) -> CheckpointValidator:
        """Loads the model. Not in `__init__`: that may take minutes, and `take` is to answer meanwhile."""
        return CheckpointValidator(self._run, self._device, self._world_size, self._keep)

    @ray.method
    def follow(self) -> None:
        """Validates checkpoints as they are completed, until `finish` was called."""
        self._validate_due()
        while not self._ended.wait(POLL_S):
            self._validate_due()

    @ray.method
    def finish(self) -> None:
        """Validates the checkpoints that are there, and ends. It tries for `FINISH_S` at least."""
        done, until = self._validate_due(), time.monotonic() + FINISH_S
        while not done and time.monotonic() < until:
            time.sleep(WAIT_S)
            done = self._validate_due()
        if not done:
            self._keep(f"{self._stage}: not all of its last checkpoints are validated")
        self._ended.set()
        with self._one_at_a_time:
            try:
                self._validator.close()
            except (InputError, OSError) as error:
                self._keep(f"{self._stage}: checkpoints that were kept for validation stay: {one_line(error)}")

    def _validate_due(self) -> bool:
        """Validates the checkpoints that are there. Returns False if some are left to try again."""
        with self._one_at_a_time:
            validator = self._validator
            try:
                due = validator.due()
            except (InputError, OSError) as error:
                self._put_off_once("the checkpoints", error)
                return False
            if len(due) >= MOST_AWAITED and self._has_validated and not self._ended.is_set():
                self._say_that_it_lags(len(due))
            for name in due:
                try:
                    validator.validate(name)
                    self._has_validated = True
                except OSError as error:  # a storage that is away, or a full disk
                    self._put_off_once(name, error)
                    return False
                except Exception as error:  # of any kind: validation must not end the training
                    validator.leave_out(name)
                    self._keep(f"{self._stage}: {name} is not validated: {one_line(error)}")
            self._put_off.clear()
            return True

    def _put_off_once(self, what: str, error: Exception) -> None:
        if what not in self._put_off:
            self._put_off.add(what)
            self._keep(f"{self._stage}: validation of {what} is put off, and tried again: {one_line(error)}")

    def _say_that_it_lags(self, waiting: int) -> None:
        if not self._said_that_it_lags:
            self._said_that_it_lags = True
            self._keep(
                f"{self._stage}: validation lags behind: {waiting} checkpoints wait for it, and of more than "
                f"{MOST_AWAITED} the oldest are removed; validate less often (validate_every_steps, "
                "sample_every_steps), or fewer rows (validation_rows)"
            )


@contextmanager
def validating_beside(run: StageRun, scaling: ScalingConfig, termination: Termination) -> Iterator[Callable[[], bool]]:
    """Validates the stage's checkpoints on other resources than the workers', if the recipe says so.

    Yields a function that tells if it is still able to.

    At the end of the training it waits until the last checkpoint is validated, too. If the training ends early, the
    next attempt validates what is missing.
    """
    if not scaling.async_validation or run.verify_only:
        yield lambda: True
        return
    needs = scaling.validator_needs
    amounts = dict(needs.resources)
    options: dict[str, Any] = {"num_cpus": amounts.pop("CPU"), "num_gpus": amounts.pop("GPU", 0.0)}
    options |= {"resources": amounts, "label_selector": dict(needs.label_selector)}
    options |= {"max_concurrency": CALLS_AT_ONCE, "max_restarts": MOST_RESTARTS, "max_task_retries": -1}
    actor: Any = ray.remote(**options)(AsyncValidation).remote(run, scaling.num_workers)
    following = actor.follow.remote()

    def watch(ended: threading.Event) -> None:
        while not ended.wait(WAIT_S):
            if ray.wait([following], timeout=0)[0]:
                _say_if_failed(following, f"stage {run.stage_number}: nothing is validated any more")
                return

    try:
        with relaying_messages(actor, "the validation"):
            with in_background(watch, "watches validation"):
                yield lambda: not ray.wait([following], timeout=0)[0]
            _finish(run, actor, termination)
    finally:
        ray.kill(actor)


def _say_if_failed(call: ray.ObjectRef[None], consequence: str) -> None:
    """Says why a call of the actor that has ended failed, if it did. The training is not disturbed by it."""
    try:
        ray.get(call)
    except ray.exceptions.RayTaskError as error:
        say(f"{consequence}: {one_line(error.cause or error)}")
    except ray.exceptions.RayError as error:
        say(f"{consequence}: {one_line(error)}")


def _finish(run: StageRun, actor: ActorProxy[AsyncValidation], termination: Termination) -> None:
    """Waits for the validation of the last checkpoint, unless the job was asked to end."""
    wait = Wait(lambda line: say(f"stage {run.stage_number}: {line}"))
    finishing = actor.finish.remote()
    while not ray.wait([finishing], timeout=WAIT_S)[0]:
        if termination.requested.is_set():
            say(f"stage {run.stage_number}: its last checkpoint is not validated, since the job was asked to end")
            return
        wait.still("the validation of the last checkpoint")
    _say_if_failed(finishing, f"stage {run.stage_number}: its last checkpoint is not validated")
