"""A thread that runs a `ContinuousBatch` for the asyncio server of a replica."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.vocabulary import State
from pipeline.generation.continuous import ContinuousBatch
from pipeline.generation.steps import Steps, Told

logger = logging.getLogger("ray.serve.mars")
GATHER_S, MOST_GATHER_S = 0.004, 0.04
"""Seconds that an idle batch waits after a request for those that come with it, and at most: rows in step share their
passes."""
FLUSH_S = 0.05
"""Seconds between two messages about the codes of a row."""

Chosen = list[tuple[State, list[int]]]


class EngineFailedError(RuntimeError):
    """A pass has failed that rows share. What was asked of this engine may be asked of another."""


@dataclass(frozen=True)
class Done:
    """The result of a row, as its steps return it, and the time of its first choice (`time.monotonic`)."""

    result: Any
    first_at: float


@dataclass(eq=False)
class Ticket:
    """A row that was asked for, from the side of the server.

    Attributes:
        make_steps: makes the row's steps, told of each choice.
        tells: send what is chosen while it is chosen.
        messages: `Chosen` lists, then a `Done` or an exception.
        first_at: time of the first choice.
    """

    make_steps: Callable[[Told], Steps]
    tells: bool
    loop: asyncio.AbstractEventLoop
    messages: "asyncio.Queue[Any]" = field(default_factory=asyncio.Queue)
    first_at: float = 0.0
    row: int | None = None
    cancelled: bool = False
    chosen: Chosen = field(default_factory=list)
    told_at: float = 0.0

    def tell(self, state: State, ids: list[int]) -> None:
        """Keeps what was chosen until the next message."""
        self.first_at = self.first_at or time.monotonic()
        if self.tells:
            self.chosen.append((state, ids))

    def send(self, message: Any) -> None:
        """Gives a message to the server's event loop."""
        if not self.cancelled and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.messages.put_nowait, message)


class Engine:
    """Runs tickets in the order in which they came, as many at once as the batch has rows.

    An exception that is due to one row is the result of that row. One in a pass that rows share ends the engine: all
    rows get an `EngineFailedError`, and `failure` keeps what was raised.
    """

    def __init__(self, batch: ContinuousBatch) -> None:
        self._batch = batch
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: set[Ticket] = set()
        self._cancelled: list[Ticket] = []
        self._closing = False
        self.failure: BaseException | None = None
        self.passes = self.rows_of_passes = 0
        self._thread = threading.Thread(target=self._run, name="draws", daemon=True)
        self._thread.start()

    @property
    def num_rows(self) -> int:
        return self._batch.num_rows

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def submit(self, make_steps: Callable[[Told], Steps], tells: bool = False) -> Ticket:
        """Asks for a row. Called from the server's event loop."""
        ticket = Ticket(make_steps, tells, asyncio.get_running_loop())
        with self._changed:
            if self.failure:
                raise EngineFailedError("a pass has failed") from self.failure
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Frees the ticket's row, or takes it out of the queue; nothing if it has ended."""
        with self._changed:
            ticket.cancelled = True
            self._cancelled.append(ticket)
            self._changed.notify()

    def close(self, wait: bool = True) -> None:
        """Ends the thread after the rows that were asked for."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._admit():
                self._pass()
        except Exception as error:  # whoever waits for a row hears of it
            logger.exception("a pass has failed")
            self._fail(error)

    def _pass(self) -> None:
        if took_part := self._batch.advance():
            self.passes += 1
            self.rows_of_passes += took_part
        now = time.monotonic()
        for ticket in self._running:
            if ticket.chosen and now - ticket.told_at >= FLUSH_S:
                self._flush(ticket, now)

    def _admit(self) -> bool:
        """Waits for work, drops what is not wanted any more, and fills free rows. False at the end."""
        with self._changed:
            idle = not self._running
            self._changed.wait_for(lambda: bool(self._running or self._waiting or self._cancelled or self._closing))
        if idle and self._waiting:
            self._gather()
        with self._changed:
            for ticket in self._cancelled:
                self._drop(ticket)
            self._cancelled.clear()
            while self._waiting and self._batch.num_free:
                self._begin(self._waiting.popleft())
            return bool(self._running or self._waiting or not self._closing)

    def _gather(self) -> None:
        """Waits as long as requests keep coming."""
        ends, count = time.monotonic() + MOST_GATHER_S, 0
        while count < len(self._waiting) < self._batch.num_rows and time.monotonic() < ends:
            count = len(self._waiting)
            time.sleep(GATHER_S)

    def _begin(self, ticket: Ticket) -> None:
        def done(result: Any) -> None:
            self._flush(ticket, time.monotonic())
            self._running.discard(ticket)
            ticket.row = None
            if isinstance(result, Exception):
                ticket.send(result)
                return
            ticket.send(Done(result, ticket.first_at or time.monotonic()))

        self._running.add(ticket)
        try:
            ticket.row = self._batch.start(ticket.make_steps(ticket.tell), done)
        except Exception as error:  # whoever asked for the row gets it
            done(error)

    def _drop(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket in self._running and ticket.row is not None:
            self._batch.stop(ticket.row)
            self._running.discard(ticket)

    def _flush(self, ticket: Ticket, now: float) -> None:
        if ticket.chosen:
            ticket.send(ticket.chosen)
            ticket.chosen, ticket.told_at = [], now

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self.failure = error
            for ticket in (*self._running, *self._waiting):
                ticket.send(EngineFailedError("a pass has failed"))
            self._running.clear()
            self._waiting.clear()
