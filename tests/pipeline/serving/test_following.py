"""Whatever happens to a newer model, the one that is served goes on, and what can be mended is tried again."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.serving.following import LONGEST_PAUSE_S, ReplicaLostError, follow
from pipeline.serving.served_model import ServedModel

Answer = ServedModel | Exception


class Ended(BaseException):
    """Ends a test as Ctrl-C would."""


class Server:
    """Gives what each look finds, and keeps what is taken over and how long was waited."""

    def __init__(self, looks: list[Answer], failures: list[Exception | None]) -> None:
        self.looks, self.failures = looks, failures
        self.tried, self.pauses = list[str](), list[float]()

    def source(self) -> ServedModel:
        if not self.looks:
            raise Ended
        found = self.looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def take_over(self, served: ServedModel) -> None:
        self.tried.append(served.source)
        if failure := self.failures.pop(0):
            raise failure


@pytest.fixture
def run(served: ServedModel, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Server, str]]:
    def run(looks: list[Answer], failures: list[Exception | None]) -> tuple[Server, str]:
        server = Server(looks, failures)
        with pytest.raises(Ended):
            follow(server.source, served, server.take_over, 2.0, server.pauses.append)
        return server, "".join(capsys.readouterr())

    return run


def test_a_checkpoint_that_cannot_be_loaded_is_said_once_and_taken_over_when_it_can(
    served: ServedModel, run: Callable[..., tuple[Server, str]]
) -> None:
    new = replace(served, source="step-9")
    server, said = run([new] * 4, [RuntimeError("half a file\nsecond line"), RuntimeError("half a file"), None])
    assert server.tried == ["step-9"] * 3
    assert said.count("RuntimeError: half a file; tries again; ") == 1 and "second line" not in said
    assert said.count("takes over checkpoint step-9") == 1


def test_a_full_disk_does_not_end_the_server_and_looks_become_rarer(
    served: ServedModel, run: Callable[..., tuple[Server, str]]
) -> None:
    full = OSError(28, "No space left on device")
    server, said = run([full] * 9 + [replace(served, source="step-9")], [None])
    assert server.tried == ["step-9"] and said.count("No space left") == 1
    assert server.pauses[:3] == [2.0, 4.0, 8.0] and server.pauses[9] == LONGEST_PAUSE_S
    assert server.pauses[-1] == 2.0, "after a success it looks as often as before"


def test_a_checkpoint_that_ends_a_replica_is_not_tried_on_the_next(
    served: ServedModel, run: Callable[..., tuple[Server, str]]
) -> None:
    large, next_one = replace(served, source="step-8"), replace(served, source="step-9")
    server, said = run([large, large, large, next_one], [ReplicaLostError("a replica ended"), None])
    assert server.tried == ["step-8", "step-9"] and said.count("waits for another checkpoint") == 1
