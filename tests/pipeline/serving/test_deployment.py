"""A job that is done again on another replica tells its client nothing twice and leaves nothing out."""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any, NoReturn

import pytest

from pipeline.config.serving import ServingLimits
from pipeline.generation.sampling import GREEDY
from pipeline.serving.deployment import Replica, ReplicaSettings, _Told
from pipeline.serving.engine import EngineFailedError
from pipeline.serving.jobs import Codes, Ended, Event, Job, PictureJob, PictureMade, Text


def told(*tries: list[Event]) -> list[Event]:
    kept, found = _Told(), list[Event]()
    for events in tries:
        kept.again()
        found += [new for event in events for new in kept.new_of(event)]
    return found


def test_codes_go_on_where_they_were() -> None:
    found = told([Codes(0, [1, 2, 3]), Codes(3, [4])], [Codes(0, [1, 2]), Codes(2, [3, 4, 5]), Codes(5, [6]), Ended(6)])
    codes = [event for event in found if isinstance(event, Codes)]
    assert [code for event in codes for code in event.codes] == [1, 2, 3, 4, 5, 6]
    assert [event.start for event in codes] == [0, 3, 4, 5] and found[-1] == Ended(6)


def test_text_and_pictures_of_a_document_come_once() -> None:
    picture = PictureMade(b"png", [1])
    found = told([Text("a "), picture, Text("gre")], [Text("a"), Text(" "), picture, Text("green "), picture, Ended(3)])
    assert "".join(event.text for event in found if isinstance(event, Text)) == "a green "
    assert found.count(picture) == 2 and found[-1] == Ended(3)


class ExitedError(BaseException):
    """In place of the end of this process."""


def test_a_replica_whose_engine_has_failed_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its jobs go to another, and Serve starts one, without an error to any client."""

    class Broken:
        async def answer(self, job: Job) -> AsyncGenerator[Event, None]:
            yield Codes(0, [1])
            raise EngineFailedError("a pass has failed")

    def end(code: int) -> NoReturn:
        raise ExitedError(code)

    async def ask() -> list[Event]:
        replica: Any = Replica(ReplicaSettings(ServingLimits(), 1, use_gpu=False))
        replica._painter = Broken()
        return [event async for event in replica.answer(PictureJob([11], 0, GREEDY, high=False))]

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(ExitedError):
        asyncio.run(ask())
