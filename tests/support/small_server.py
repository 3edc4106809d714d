"""A server of a small model in this process, without Ray."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import uvicorn

from jobs.common.recipes import load_recipe
from pipeline.config.serving import ServingLimits
from pipeline.runs.paths import RunPaths
from pipeline.serving.admission import token_hash
from pipeline.serving.admitted import NoReplicaError
from pipeline.serving.app import Application, Offered
from pipeline.serving.figures import Silent
from pipeline.serving.guard import Access
from pipeline.serving.jobs import Event, Job
from pipeline.serving.model_source import model_source
from pipeline.serving.painter import Painter
from pipeline.serving.prompts import Tokenizer
from pipeline.serving.served_model import ServedModel
from tests.support.past_run import copy_past_run

NUM_ROWS = 4
LIMITS = ServingLimits(
    max_outstanding=8,
    max_document_pictures=2,
    max_document_text_ids=12,
    max_document_prompt_ids=16,
    max_body_bytes=200_000,
    requests_per_minute=0,
)


def small_served(folder: Path) -> ServedModel:
    """Exports the small run that past code began."""
    run = copy_past_run(folder)
    paths = RunPaths(run, load_recipe(str(folder / "recipe.py")))
    return model_source(str(run / "stage2"), paths)()


class LocalReplicas:
    """A painter of this process; counts the jobs that were begun."""

    def __init__(self, painter: Painter) -> None:
        self.painter, self.begun = painter, 0

    def ask(self, job: Job) -> AsyncGenerator[Event, None]:
        self.begun += 1
        return self.painter.answer(job)

    async def checkpoint(self) -> str:
        if self.painter.engine.failure:
            raise NoReplicaError("its engine has failed")
        return self.painter.served.source

    async def patches(self) -> bytes:
        return await self.painter.patches()


class SmallServer:
    """The server, and a client of it."""

    def __init__(self, served: ServedModel, limits: ServingLimits, token: str, log_prompts: bool) -> None:
        self.served = served
        self.replicas = LocalReplicas(Painter(served, limits, NUM_ROWS, torch.device("cpu")))
        offered = Offered(served, Tokenizer(served.export))
        self.application = Application(lambda: offered, self.replicas, limits, Silent(), log_prompts)
        access = Access("127.0.0.1", token_hash(token) if token else "", limits.max_body_bytes)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()  # requests wait till the server has started
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self.application.asgi(access), log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def send(self, path: str, values: Any = None, **headers: str) -> tuple[int, Message, Any]:
        """Sends a request: status, headers and JSON or text of the answer."""
        content = values if isinstance(values, bytes | None) else json.dumps(values).encode()
        own = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(self.url + path, content, own)
        try:
            with urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers, _parsed(answer.read())
        except HTTPError as error:
            return error.code, error.headers, _parsed(error.read())

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Waits for what another thread does."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=30)
        with ThreadPoolExecutor() as elsewhere:  # a browser's driver runs an event loop in this thread
            elsewhere.submit(asyncio.run, self.replicas.painter.close()).result()
        self._socket.close()


@contextmanager
def small_server(
    served: ServedModel, limits: ServingLimits = LIMITS, token: str = "", log_prompts: bool = False
) -> Iterator[SmallServer]:
    """Runs a server for the block."""
    server = SmallServer(served, limits, token, log_prompts)
    try:
        yield server
    finally:
        server.stop()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")
