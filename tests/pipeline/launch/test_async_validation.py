"""The actor that validates beside the training goes on over outages and damage, and says what it leaves out."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch._dynamo.config

from pipeline.errors import InputError
from pipeline.launch import async_validation
from pipeline.launch.async_validation import AsyncValidation
from pipeline.runtime.torch_private import GRAPH_LIMIT

FIRST, SECOND = "step-00000008-00000000", "step-00000016-00000000"


class Validator:
    """Validates in no time. `listed` and `measured` may raise."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.left_out: list[str] = []
        self.listed: Callable[[], Any] = lambda: None
        self.measured: Callable[[str], Any] = lambda name: None

    def due(self) -> list[str]:
        self.listed()
        return [name for name in (FIRST, SECOND) if name not in self.done + self.left_out]

    def validate(self, name: str) -> None:
        self.measured(name)
        self.done.append(name)

    def leave_out(self, name: str) -> None:
        self.left_out.append(name)

    def close(self) -> None:
        """Does nothing."""


class Loading:
    """Makes the validator, and counts how often."""

    def __init__(self) -> None:
        self.times, self.validator = 0, Validator()

    def __call__(self, *_: object) -> Validator:
        self.times += 1
        return self.validator


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Loading:
    found = Loading()
    monkeypatch.setattr(async_validation, "CheckpointValidator", found)
    monkeypatch.setattr(async_validation, "WAIT_S", 0.001)
    monkeypatch.setattr(async_validation.ray, "get_gpu_ids", lambda: [0])  # on CPUs it gives this process away
    return found


def actor() -> Any:
    return AsyncValidation(SimpleNamespace(stage_number=1), 2)  # type: ignore[arg-type]


def failing(times: int, error: Exception) -> Callable[..., None]:
    errors = [error] * times

    def call(*_: object) -> None:
        if errors:
            raise errors.pop()

    return call


def test_its_lines_can_be_fetched_while_it_loads_the_model(loading: Loading) -> None:
    """Otherwise the job says that nobody answers, and one that is asked to end waits for a minute."""
    validation = actor()
    assert validation.take() == [] and loading.times == 0
    validation.finish()
    assert loading.times == 1


@pytest.mark.parametrize("what", ["listed", "measured"])
def test_the_last_checkpoints_are_validated_after_an_outage(loading: Loading, what: str) -> None:
    setattr(loading.validator, what, failing(3, OSError("the bucket does not answer")))
    validation = actor()
    validation.finish()
    assert loading.validator.done == [FIRST, SECOND]
    (said,) = validation.take()
    assert "is put off, and tried again: the bucket does not answer" in said, "once, not at each try"


def test_an_outage_that_lasts_is_given_up_and_said(loading: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_validation, "FINISH_S", 0.01)
    loading.validator.listed = failing(10**6, OSError("the bucket does not answer"))
    validation = actor()
    validation.finish()
    assert validation.take()[-1] == "stage 1: not all of its last checkpoints are validated"


def test_a_damaged_checkpoint_is_left_out_and_the_others_are_validated(loading: Loading) -> None:
    loading.validator.measured = failing(1, InputError("rank-00000.safetensors has changed since it was written"))
    validation = actor()
    validation.finish()
    assert loading.validator.left_out == [FIRST] and loading.validator.done == [SECOND]
    assert f"{FIRST} is not validated: rank-00000.safetensors has changed" in validation.take()[0]


def test_it_may_compile_as_many_graphs_as_the_training(loading: Loading) -> None:
    """torch keeps the limit by thread, and Ray runs an actor's calls in others than its `__init__`."""
    limits: list[int] = []
    loading.validator.measured = lambda name: limits.append(torch._dynamo.config.recompile_limit)
    calling = threading.Thread(target=actor().finish)
    calling.start()
    calling.join()
    assert limits == [GRAPH_LIMIT] * 2
