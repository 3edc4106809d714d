"""Clients of a server: those that wait for each picture, and those that hang up or send what is refused."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

HANG_UP_S = 0.3
MAX_TRIES = 200
"""Times that a client comes again after 429."""
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Faults:
    """Shares of requests that end before their answer, that have a wrong value, and whose body is too large."""

    hung_up: float = 0.0
    wrong: float = 0.0
    too_large: float = 0.0


NO_FAULTS, USUAL_FAULTS = Faults(), Faults(0.05, 0.01, 0.01)


@dataclass(frozen=True)
class Asked:
    """A picture that clients ask for."""

    prompt: str
    seed: int

    def body(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "seed": self.seed, "return_codes": True}


Codes = tuple[int, ...]
Expected = dict[Asked, tuple[Codes, Codes | None]]
"""The codes that `generate` draws, base and high."""


@dataclass
class Outcome:
    """What became of the requests.

    Attributes:
        counts: requests by kind.
        num_refused: times that one was refused with 429 and came again.
        wrong: what was wrong, a line each.
        took_s: seconds of the pictures.
    """

    counts: Counter[str] = field(default_factory=Counter)
    num_refused: int = 0
    wrong: list[str] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    @property
    def num_requests(self) -> int:
        return sum(self.counts.values())


class Client:
    """Sends requests, and checks every answer.

    Args:
        url: the server's.
        expected: what `generate` draws.
        too_large: bytes of a body that the server refuses.
    """

    def __init__(self, url: str, expected: Expected, too_large: int) -> None:
        self._url, self._expected, self._too_large = f"{url}/v1/images/generations", expected, too_large
        self.outcome = Outcome()

    async def picture(self, session: aiohttp.ClientSession, asked: Asked) -> None:
        """Asks until the picture is there, as long as the server says when to come again."""
        began = time.monotonic()
        for _ in range(MAX_TRIES):
            async with session.post(self._url, json=asked.body()) as answer:
                values = await _json_of(answer)
                if answer.status != 429:
                    break
                if not _is_refusal(values, answer) or not answer.headers.get("Retry-After", "").isdecimal():
                    self.outcome.wrong.append(f"429 in another form: {values}")
                self.outcome.num_refused += 1
                await asyncio.sleep(float(answer.headers.get("Retry-After", "1")) * random.uniform(0.5, 1.5))
        self.outcome.counts["pictures"] += 1
        self.outcome.took_s.append(time.monotonic() - began)
        if answer.status != 200:
            self.outcome.wrong.append(f"{answer.status}: {str(values)[:200]}")
            return
        image = values["data"][0]
        high = image["high_codes"]
        if (tuple(image["codes"]), None if high is None else tuple(high)) != self._expected[asked]:
            self.outcome.wrong.append(f"another picture of {asked}")

    async def hang_up(self, session: aiohttp.ClientSession, asked: Asked) -> None:
        """Goes away before the answer."""
        self.outcome.counts["hung up"] += 1
        try:
            async with asyncio.timeout(HANG_UP_S), session.post(self._url, json=asked.body()) as answer:
                await answer.read()
        except TimeoutError:
            return

    async def refused(self, session: aiohttp.ClientSession, what: str, content: Any, status: int) -> None:
        """Sends what must be refused."""
        self.outcome.counts[what] += 1
        try:
            async with session.post(self._url, **content) as answer:
                values = await _json_of(answer)
                if answer.status not in (status, 429) or not _is_refusal(values, answer):
                    self.outcome.wrong.append(f"{what}: {answer.status} {str(values)[:200]}")
        except aiohttp.ClientError as error:
            # A server may close the connection while a body that it has refused is still coming.
            if status != 413:
                self.outcome.wrong.append(f"{what}: {error!r}")

    async def any_of(self, session: aiohttp.ClientSession, asked: Asked, faults: Faults, number: float) -> None:
        """A request with or without a fault, as a number from [0, 1) says."""
        if number < faults.hung_up:
            await self.hang_up(session, asked)
        elif number < faults.hung_up + faults.wrong:
            await self.refused(session, "wrong value", {"json": {"prompt": asked.prompt, "n": -1}}, 400)
        elif number < faults.hung_up + faults.wrong + faults.too_large:
            content = {"data": b" " * self._too_large, "headers": {"Content-Type": "application/json"}}
            await self.refused(session, "too large", content, 413)
        else:
            await self.picture(session, asked)


async def run_clients(
    client: Client,
    asked: list[Asked],
    num_clients: int,
    faults: Faults = NO_FAULTS,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Sends all requests, each client one after the other. Returns the seconds that they took.

    Args:
        client: sends and checks them.
        asked: one for each request.
        num_clients: clients at once.
        faults: how often to hang up, or to send what is refused.
        progress: gets the number of each request that is begun.
    """
    numbered, draw = iter(enumerate(asked)), random.Random(0)

    async def one() -> None:
        for number, each in numbered:
            if progress:
                progress(number)
            try:
                await client.any_of(session, each, faults, draw.random())
            except (aiohttp.ClientError, TimeoutError) as error:
                client.outcome.wrong.append(f"no answer: {error!r}")

    timeout, connector = aiohttp.ClientTimeout(TIMEOUT_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(num_clients)))
        return time.monotonic() - began


async def _json_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    if answer.content_type != "application/json":
        return {"not_json": (await answer.text())[:200]}
    values: dict[str, Any] = await answer.json()
    return values


def _is_refusal(values: dict[str, Any], answer: aiohttp.ClientResponse) -> bool:
    error = values.get("error")
    return isinstance(error, dict) and {"message", "type", "param", "code"} <= set(error) and bool(error["message"])
