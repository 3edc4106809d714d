"""The HTTP application of a server: OpenAI's interface, the page, and what the page asks."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline.config.serving import ServingLimits
from pipeline.serving.admission import Gate, has_token
from pipeline.serving.admitted import AdmittedJob, NoReplicaError, Replicas, all_of, checked, unless_gone
from pipeline.serving.api_errors import FAILED, ApiError, utf8
from pipeline.serving.chat_api import chat_answer, chat_chunks, read_chat_request
from pipeline.serving.events import EventsResponse, merged
from pipeline.serving.figures import Figures
from pipeline.serving.guard import Access, Guard, refusal
from pipeline.serving.images_api import image_event, images_answer, read_images_request
from pipeline.serving.jobs import Job, PictureMade
from pipeline.serving.prompts import Tokenizer
from pipeline.serving.served_model import ServedModel

logger = logging.getLogger("ray.serve.mars")
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/growing.js": ("growing.js", "text/javascript"),
}


@dataclass(frozen=True)
class Offered:
    """The model that is served now, with its tokenizer."""

    served: ServedModel
    tokenizer: Tokenizer


class Application:
    """Answers requests.

    Args:
        offered: returns the model that is served now; it may change between two calls.
        replicas: where jobs are done.
        limits: limits of requests.
        figures: gets what is measured.
        log_prompts: write prompts into the log.
    """

    def __init__(
        self,
        offered: Callable[[], Offered],
        replicas: Replicas,
        limits: ServingLimits,
        figures: Figures,
        log_prompts: bool = False,
    ) -> None:
        self._offered, self._replicas, self._limits = offered, replicas, limits
        self._figures, self._log_prompts = figures, log_prompts
        self.gate = Gate(limits)
        self._patches: dict[str, asyncio.Task[bytes]] = {}

    def asgi(self, access: Access) -> ASGIApp:
        """The application behind its checks."""
        routes = [
            *(Route(path, _file(*content), methods=["GET"]) for path, content in PAGE.items()),
            Route("/health", self.health, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name}", self.model, methods=["GET"]),
            Route("/settings", partial(self.settings, access), methods=["GET"]),
            Route("/v1/patches.png", self.patches, methods=["GET"]),
            Route("/v1/images/generations", self.images, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        handlers = {HTTPException: _no_such_route, ApiError: _refusal, Exception: _failure}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), access, self.gate)

    async def health(self, request: Request) -> Response:
        """503 while it is stopped, and if no replica answers."""
        served, status, checkpoint = self._offered().served, "ok", ""
        if self.gate.closed:
            status = "stopping"
        else:
            try:
                checkpoint = await self._replicas.checkpoint()
                is_well = bool(checkpoint or self.gate.outstanding)
            except NoReplicaError:
                is_well = False
            status = "ok" if is_well else "no replica answers"
        checkpoint = checkpoint or served.source
        return JSONResponse(
            {"status": status, "model": served.name, "checkpoint": checkpoint, "outstanding": self.gate.outstanding},
            200 if status == "ok" else 503,
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model_object(self._offered().served)]})

    async def model(self, request: Request) -> Response:
        served, name = self._offered().served, request.path_params["name"]
        if name != served.name:
            raise ApiError(404, f"there is no model {name!r} here, only {served.name!r}", "model", "model_not_found")
        return JSONResponse(_model_object(served))

    async def settings(self, access: Access, request: Request) -> Response:
        """What the page must know; without the server's token only that it is needed."""
        if not has_token(request.headers.get("authorization", ""), access.token_hash):
            return JSONResponse({"needs_token": True})
        served = self._offered().served
        names: tuple[str, ...] = (
            "name",
            "source",
            "num_codes",
            "size_px",
            "num_high_codes",
            "size_hr_px",
            "max_prompt_ids",
        )
        names += ("temperature", "top_k", "guidance_scale", "attribution")
        described = served.to_json()
        return JSONResponse({name: described[name] for name in names} | {"limits": asdict(self._limits)})

    def prepare_patches(self) -> "asyncio.Task[bytes]":
        """Has what the page shows of each code made, once for each VQ-GAN: it takes a replica some seconds."""
        key = self._offered().served.vqgan
        known = self._patches.get(key)
        if known is None or (known.done() and (known.cancelled() or known.exception())):
            known = self._patches[key] = asyncio.create_task(self._replicas.patches())
        return known

    async def patches(self, request: Request) -> Response:
        content = await asyncio.shield(self.prepare_patches())
        return Response(content, media_type="image/png", headers={"Cache-Control": "max-age=600"})

    async def images(self, request: Request) -> Response:
        offered, created = self._offered(), int(time.time())
        values = await _json_of(request, self._limits.request_timeout_s)
        asked = await asyncio.to_thread(read_images_request, values, offered.served, self._limits, offered.tokenizer)
        self._log("images", values.get("prompt"))
        with_events = [self._admitted(job) for job in self._entering(list[Job](asked.jobs))]
        if not asked.streams:
            return await unless_gone(request, self._whole_images(asked, with_events, created))

        async def lines() -> AsyncGenerator[dict[str, Any], None]:
            async with aclosing(merged(with_events)) as events:
                async for number, event in events:
                    if found := image_event(asked, number, checked(event), created):
                        yield found

        return EventsResponse(lines(), with_events, named=True)

    async def _whole_images(self, asked: Any, jobs: list[AdmittedJob], created: int) -> Response:
        events = await all_of(jobs)
        made = [next(event for event in of_job if isinstance(event, PictureMade)) for of_job in events]
        return JSONResponse(await asyncio.to_thread(images_answer, asked, made, created))

    async def chat(self, request: Request) -> Response:
        offered, created, answer_id = self._offered(), int(time.time()), f"chatcmpl-{uuid.uuid4().hex}"
        values = await _json_of(request, self._limits.request_timeout_s)
        asked = await asyncio.to_thread(read_chat_request, values, offered.served, self._limits, offered.tokenizer)
        self._log("chat", values.get("messages"))
        jobs = [self._admitted(job) for job in self._entering([asked.job])]
        if not asked.streams:

            async def whole() -> Response:
                (events,) = await all_of(jobs)
                return JSONResponse(chat_answer(asked, offered.served, events, answer_id, created))

            return await unless_gone(request, whole())

        async def chunks() -> AsyncGenerator[dict[str, Any], None]:
            number = 0
            async with aclosing(merged(jobs)) as events:
                async for _, event in events:
                    number += isinstance(checked(event), PictureMade)
                    for chunk in chat_chunks(asked, offered.served, event, number, answer_id, created):
                        yield chunk

        return EventsResponse(chunks(), jobs, named=False)

    def _entering(self, jobs: list[Job]) -> list[Job]:
        try:
            self.gate.enter(len(jobs))
        except ApiError:
            self._figures.refused()
            raise
        self._figures.outstanding(self.gate.outstanding)
        return jobs

    def _admitted(self, job: Job) -> AdmittedJob:
        return AdmittedJob(job, self._replicas, self.gate, self._figures, self._limits.request_timeout_s)

    def _log(self, what: str, prompt: Any) -> None:
        if self._log_prompts:
            logger.info("%s: %s", what, utf8(json.dumps(prompt, ensure_ascii=False)[:2000]))


async def _json_of(request: Request, timeout_s: float) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"content-type is {kind!r}, but must be application/json", None, "unsupported_media_type")
    try:
        async with asyncio.timeout(timeout_s):
            content = await request.body()
    except TimeoutError as error:
        raise ApiError(
            408, f"the body did not come within {timeout_s:g} s", None, "timeout", {"Connection": "close"}
        ) from error
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON: {error}", None, "invalid_json") from error
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object", None, "invalid_json")
    return values


def _model_object(served: ServedModel) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": 0, "owned_by": "mars-on-ray", "checkpoint": served.source}


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = files("pipeline.serving").joinpath("page", name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return answer


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers, path = dict(error.headers or {}), request.url.path
    if allowed := headers.get("Allow"):
        said, code = f"{path!r} does not take {request.method}; send {allowed}", "method_not_allowed"
    else:
        said, code = f"there is no {path!r} here", "not_found"
    return refusal(ApiError(error.status_code, said, None, code, headers), request.scope)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refusal(error, request.scope)


async def _failure(request: Request, error: Exception) -> Response:
    """Starlette then raises the error again, and the guard writes it into the log."""
    return refusal(FAILED, request.scope)
