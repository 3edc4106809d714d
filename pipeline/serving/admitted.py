"""A job that was let in, from its first event to its end, however it ends."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from starlette.requests import Request

from pipeline.serving.admission import Gate
from pipeline.serving.api_errors import ApiError, wrong
from pipeline.serving.figures import Figures, Measured
from pipeline.serving.jobs import Event, Job, Refused

T = TypeVar("T")


class NoReplicaError(RuntimeError):
    """No replica answers."""


class Replicas(Protocol):
    """Where jobs are done."""

    def ask(self, job: Job) -> AsyncGenerator[Event, None]:
        """Does a job; it is given up if the generator is closed."""

    async def checkpoint(self) -> str:
        """The checkpoint that a replica serves; empty if all of them have too much to do to say it.

        Raises:
            NoReplicaError: no replica answers.
        """

    async def patches(self) -> bytes:
        """See `Painter.patches`."""


class AdmittedJob:
    """A job that was let in; it leaves once, however it ends.

    Args:
        job: the job.
        replicas: where it is done.
        gate: what it leaves.
        figures: gets what is measured.
        timeout_s: seconds after which it is given up.
    """

    def __init__(self, job: Job, replicas: Replicas, gate: Gate, figures: Figures, timeout_s: float) -> None:
        self._job, self._replicas, self._gate, self._figures = job, replicas, gate, figures
        self._timeout_s, self._left, self._measured = timeout_s, False, Measured(figures, job)

    async def events(self) -> AsyncGenerator[Event, None]:
        """The job's events.

        Raises:
            ApiError: it takes too long.
        """
        events = self._replicas.ask(self._job)
        try:
            async with asyncio.timeout(self._timeout_s), aclosing(events):
                async for event in events:
                    self._measured.event(event)
                    yield event
            self.leave(made=True)
        except TimeoutError as error:
            raise ApiError(504, f"the request took more than {self._timeout_s:g} s", None, "timeout") from error
        finally:
            self.leave()

    def leave(self, made: bool = False) -> None:
        """Gives its place back; a second time, nothing happens."""
        if not self._left:
            self._left = True
            self._gate.leave(made)
            self._figures.outstanding(self._gate.outstanding)


async def all_of(jobs: list[AdmittedJob]) -> list[list[Event]]:
    """The events of all jobs. If one fails, the others are given up."""

    async def of(job: AdmittedJob) -> list[Event]:
        async with aclosing(job.events()) as events:
            return [checked(event) async for event in events]

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(of(job)) for job in jobs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        for job in jobs:
            job.leave()
    return [task.result() for task in tasks]


def checked(event: Event) -> Event:
    """Raises ApiError if the event refuses the job."""
    if isinstance(event, Refused):
        raise wrong("messages", f"the picture cannot be captioned: {event.why}", "invalid_image")
    return event


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Does the work, or gives it up when the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_client_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "the client has closed the connection", None, "client_closed")
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
