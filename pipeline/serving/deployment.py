"""The two Ray Serve deployments of a server: a front that speaks HTTP, and replicas that hold the model."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from pipeline.config.serving import ServingLimits
from pipeline.serving.admitted import NoReplicaError
from pipeline.serving.app import Application, Offered
from pipeline.serving.engine import EngineFailedError
from pipeline.serving.figures import FrontMetrics, ReplicaMetrics
from pipeline.serving.following import first_line
from pipeline.serving.guard import Access
from pipeline.serving.jobs import Codes, Ended, Event, Job, PictureMade, Refused, Text
from pipeline.serving.painter import Painter
from pipeline.serving.prompts import Tokenizer
from pipeline.serving.served_model import ServedModel

logger = logging.getLogger("ray.serve.mars")
SHOW_S = 2.0
"""Seconds between two looks at a replica's figures."""
ANSWER_S = 5.0
"""Seconds in which a replica says which checkpoint it serves."""
MAX_TRIES = 5
"""Replicas that a job is given to one after the other, if they die."""
LOST = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.ObjectLostError)
"""What is raised of a replica whose process has ended."""


@dataclass(frozen=True)
class ReplicaSettings:
    """Settings of the replicas.

    Attributes:
        limits: see `Painter`.
        num_rows: pictures, captions and documents made at once.
        use_gpu: run on CUDA.
    """

    limits: ServingLimits
    num_rows: int
    use_gpu: bool


class Replica:
    """Holds the model. `reconfigure` gets the model's description.

    A later model is first tried by one replica (`try_model`), beside the one that answers. What cannot be loaded never
    becomes the model of all replicas, so that one that starts anew still finds one that can.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        self._painter: Painter | None = None
        self._tried: Painter | None = None
        self._loading: asyncio.Task[None] | None = None
        self._wanted: ServedModel | None = None
        self._showing: asyncio.Task[None] | None = None
        self._left_behind = ""

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Loads the first model; a later one is loaded meanwhile, and answers once it is there."""
        self._wanted = ServedModel.from_json(config)
        if self._painter is None:
            self._painter = await asyncio.to_thread(self._load, self._wanted)
            self._showing = asyncio.create_task(self._show())
        elif self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._take_over())

    async def try_model(self, config: dict[str, Any]) -> str:
        """Loads a model that may be taken over next. Returns why that is impossible; empty if it is loaded."""
        wanted = ServedModel.from_json(config)
        if self._loading:
            await asyncio.wait({self._loading})  # the model before it has ended: no three at once
        await self._give_up_tried()
        try:
            self._tried = await asyncio.to_thread(self._load, wanted)
        except Exception as error:
            logger.exception("checkpoint %s cannot be loaded", wanted.source)
            return first_line(error)
        return ""

    async def answer(self, job: Job) -> AsyncGenerator[Event, None]:
        """See `Painter.answer`."""
        assert self._painter is not None
        try:
            async with aclosing(self._painter.answer(job)) as events:
                async for event in events:
                    yield event
        except EngineFailedError:
            logger.error("this replica ends; its jobs are done again by another")
            os._exit(1)  # at once: Serve would notice at the third health check, and what CUDA holds may be spoilt

    async def patches(self) -> bytes:
        """See `Painter.patches`."""
        assert self._painter is not None
        return await self._painter.patches()

    async def checkpoint(self) -> str:
        """The checkpoint that new jobs get."""
        assert self._painter is not None
        return self._painter.served.source

    async def process_id(self) -> int:
        """The process that holds the model; benchmarks and tests kill it."""
        return os.getpid()

    async def num_rows(self) -> int:
        """Rows that are made or wait."""
        assert self._painter is not None
        return self._painter.engine.num_running + self._painter.engine.num_waiting

    def check_health(self) -> None:
        """Ray Serve starts a replica anew whose health check fails."""
        if self._painter and self._painter.engine.failure:
            raise RuntimeError(f"a pass has failed: {self._painter.engine.failure}")
        if self._left_behind:
            raise RuntimeError(f"another replica has loaded a checkpoint that this one cannot: {self._left_behind}")

    def _load(self, served: ServedModel) -> Painter:
        device = torch.device("cuda" if self._settings.use_gpu else "cpu")
        began = time.monotonic()
        painter = Painter(served, self._settings.limits, self._settings.num_rows, device)
        logger.info("loaded %s of %s in %.1f s", served.source, served.name, time.monotonic() - began)
        return painter

    async def _take_over(self) -> None:
        while self._painter and self._wanted and self._wanted != self._painter.served:
            wanted, before = self._wanted, self._painter
            if self._tried and self._tried.served == wanted:
                self._painter, self._tried = self._tried, None
            else:
                try:
                    self._painter = await asyncio.to_thread(self._load, wanted)
                except Exception as error:
                    logger.exception("checkpoint %s cannot be loaded", wanted.source)
                    self._left_behind = first_line(error)
                    return
            await before.close()
        await self._give_up_tried()

    async def _give_up_tried(self) -> None:
        tried, self._tried = self._tried, None
        if tried:
            await tried.close()

    async def _show(self) -> None:
        metrics = ReplicaMetrics(self._wanted.name if self._wanted else "", serve.get_replica_context().replica_tag)
        passes = rows = 0
        while self._painter:
            engine = self._painter.engine
            done, of_rows = engine.passes - passes, engine.rows_of_passes - rows
            fill = of_rows / done / engine.num_rows if done > 0 else 0.0
            metrics.show(engine.num_waiting, engine.num_running, max(0.0, fill))
            passes, rows = engine.passes, engine.rows_of_passes
            await asyncio.sleep(SHOW_S)


class ServeReplicas:
    """The replicas as the front asks them. A job whose replica dies is done again by another: seeds decide its result,
    so that the client notices nothing but the time."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def ask(self, job: Job) -> AsyncGenerator[Event, None]:
        """See `Replicas`."""
        told = _Told()
        for number in range(MAX_TRIES):
            told.again()
            streamed: Any = self._handle.options(stream=True)
            answers = streamed.answer.remote(job)
            try:
                async for event in answers:
                    for new in told.new_of(event):
                        yield new
                return
            except LOST:
                if number == MAX_TRIES - 1:
                    raise
                logger.warning("a replica was lost; its job is done again")
            finally:
                answers.cancel()

    async def checkpoint(self) -> str:
        """See `Replicas`. A replica that has as much to do as it may have does not answer in time; Serve's controller
        knows if there is one."""
        answer = self._handle.checkpoint.remote()
        try:
            async with asyncio.timeout(ANSWER_S):
                return str(await answer)
        except (TimeoutError, RayServeException, *LOST) as error:
            answer.cancel()
            if isinstance(error, TimeoutError) and await asyncio.to_thread(_has_replica):
                return ""
            raise NoReplicaError("no replica answers") from error

    async def patches(self) -> bytes:
        """See `Replicas`."""
        content: bytes = await self._handle.patches.remote()
        return content


def _has_replica() -> bool:
    """True if a replica runs, as Serve's controller sees it, which looks after them every few seconds."""
    name = serve.get_replica_context().app_name
    states = serve.status().applications[name].deployments[Replica.__name__].replica_states
    return any(count and state in ("RUNNING", "UPDATING") for state, count in states.items())


class _Told:
    """Of the events of a job that is done again, those that were not told before."""

    def __init__(self) -> None:
        self._codes = self._letters = self._pictures = 0
        self.again()

    def again(self) -> None:
        self._at_letters = self._at_pictures = 0

    def new_of(self, event: Event) -> list[Event]:
        if isinstance(event, Codes):
            known = max(0, self._codes - event.start)
            self._codes = max(self._codes, event.start + len(event.codes))
            return [Codes(event.start + known, event.codes[known:])] if known < len(event.codes) else []
        if isinstance(event, Text):
            known = max(0, self._letters - self._at_letters)
            self._at_letters += len(event.text)
            self._letters = max(self._letters, self._at_letters)
            return [Text(event.text[known:])] if known < len(event.text) else []
        if isinstance(event, PictureMade):
            self._at_pictures += 1
            is_new = self._at_pictures > self._pictures
            self._pictures = max(self._pictures, self._at_pictures)
            return [event] if is_new else []
        assert isinstance(event, Ended | Refused)
        return [event]


@serve.ingress()
class Front:
    """Speaks HTTP. `reconfigure` gets the model's description.

    Args:
        replicas: the deployment `Replica`.
        limits: limits of requests.
        access: who may come in.
        name: the model's name, for metrics.
        log_prompts: write prompts into the log.
    """

    def __init__(
        self, replicas: DeploymentHandle[Any], limits: ServingLimits, access: Access, name: str, log_prompts: bool
    ) -> None:
        figures = FrontMetrics(name)
        self._application = Application(self._now, ServeReplicas(replicas), limits, figures, log_prompts)
        self._access = access
        self._offered: Offered | None = None

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Takes over a model's name, sizes and tokenizer."""
        served = ServedModel.from_json(config)
        self._offered = Offered(served, await asyncio.to_thread(Tokenizer, served.export))
        self._application.prepare_patches()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._application.asgi(self._access)

    async def drain(self) -> int:
        """Lets nothing in any more. Returns the number of jobs that are outstanding."""
        self._application.gate.closed = True
        return self._application.gate.outstanding

    def _now(self) -> Offered:
        assert self._offered is not None
        return self._offered
