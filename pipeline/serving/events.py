"""Answers as server-sent events, and several jobs' events as one stream."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pipeline.serving.api_errors import FAILED, ApiError
from pipeline.serving.jobs import Event

logger = logging.getLogger("ray.serve.mars")
QUIET_S = 15.0
"""Seconds after which a comment is sent, so that nothing on the way gives the connection up."""


class JobEvents(Protocol):
    """A job that was let in."""

    def events(self) -> AsyncGenerator[Event, None]: ...
    def leave(self, made: bool = False) -> None: ...


async def merged(jobs: Sequence[JobEvents]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all jobs as they come, with the jobs' numbers."""
    queue: asyncio.Queue[tuple[int, Event | BaseException | None]] = asyncio.Queue()

    async def pump(number: int, job: JobEvents) -> None:
        try:
            async with aclosing(job.events()) as events:
                async for event in events:
                    queue.put_nowait((number, event))
            queue.put_nowait((number, None))
        except Exception as error:  # whoever listens gets it
            queue.put_nowait((number, error))

    tasks = [asyncio.create_task(pump(number, job)) for number, job in enumerate(jobs)]
    left = len(tasks)
    try:
        while left:
            number, event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                left -= 1
            else:
                yield number, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class EventsResponse(StreamingResponse):
    """Sends objects as server-sent events, then `[DONE]` if they have no names. An error is the last event.

    Args:
        objects: the events' data.
        jobs: leave when the answer has ended, however it did.
        named: an event's `type` is also its name.
    """

    def __init__(self, objects: AsyncGenerator[dict[str, Any], None], jobs: Sequence[JobEvents], named: bool) -> None:
        self._jobs = jobs
        super().__init__(_lines(objects, named), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for job in self._jobs:
                job.leave()


async def _lines(objects: AsyncGenerator[dict[str, Any], None], named: bool) -> AsyncIterator[str]:
    async with aclosing(_with_pauses(objects)) as with_pauses:
        try:
            async for each in with_pauses:
                yield ": waiting\n\n" if each is None else event_of(each, named)
        except ApiError as error:
            yield event_of(error.body | {"type": "error"}, named)
            return
        except Exception:  # the answer has begun, so that nobody above can send it
            logger.exception("an answer of events has failed")
            yield event_of(FAILED.body | {"type": "error"}, named)
            return
    if not named:
        yield "data: [DONE]\n\n"


async def _with_pauses(objects: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The objects, and None after each `QUIET_S` without one."""
    following: asyncio.Future[dict[str, Any]] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(objects))
            done, _ = await asyncio.wait({following}, timeout=QUIET_S)
            if not done:
                yield None
                continue
            finished, following = following, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if following:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await objects.aclose()


def event_of(values: dict[str, Any], named: bool) -> str:
    """One server-sent event."""
    name = f"event: {values['type']}\n" if named else ""
    return f"{name}data: {json.dumps(values, ensure_ascii=False)}\n\n"
