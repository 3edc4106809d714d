"""Follows one submission of a Ray job to its end over a connection that may break."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.errors import UsageError
from pipeline.runtime.ray_private import job_client

REQUEST_TIMEOUT_S = 60.0
QUIET_S = 120.0
"""A job's log that says nothing for so long is asked for anew: its connection may be dead without a word."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
REACH_S = 15.0
"""Seconds within which a cluster must answer for the first time. After that it may be away for longer."""
LOST = (ConnectionError, requests.RequestException, aiohttp.ClientError, TimeoutError)
LOST_JOB = "LOST"
"""Our status of a job that the cluster does not know."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Ended:
    """The outcome of a job.

    Attributes:
        status: `SUCCEEDED`, `FAILED`, `STOPPED`, or `LOST`, if the cluster does not know the job.
        exit_code: exit code of the job, or None if it has none.
        message: Ray's message, in one line.
    """

    status: str
    exit_code: int | None
    message: str = ""


class JobLostError(RuntimeError):
    """The cluster does not know the job: the cluster or its head was replaced."""


class UnreachableError(RuntimeError):
    """The cluster did not answer within the time limit.

    Attributes:
        may_exist: True if the job may be on the cluster nevertheless.
    """

    def __init__(self, message: str, may_exist: bool) -> None:
        super().__init__(message)
        self.may_exist = may_exist


class JobFollower:
    """Submits a job and follows it. It says no more of the job than the cluster has answered.

    Args:
        address: address of the cluster's dashboard, as in `http://127.0.0.1:8265`.
        give_up_s: seconds without any answer after which it gives up, once the cluster has answered (see `REACH_S`).
        log: called with lines about the connection.
        show: called with the job's output as it arrives.

    Attributes:
        known: what is known of the job, as a clause.
        may_exist: False while the job is certainly not on the cluster.
    """

    def __init__(self, address: str, give_up_s: float, log: Callable[[str], None], show: Callable[[str], None]) -> None:
        self.address, self._give_up_s, self._log, self._show = address, give_up_s, log, show
        self._client: JobSubmissionClient | None = None
        self._shown, self._reached = 0, False
        self.known, self.may_exist = "nothing was submitted", False

    def submit(self, submission_id: str, entrypoint: str, runtime_env: dict[str, Any]) -> None:
        """Submits the job exactly once, even if the connection is lost meanwhile.

        Raises:
            UsageError: the cluster rejects the job.
            UnreachableError: see `give_up_s`.
        """
        asked = False

        async def ask(client: JobSubmissionClient) -> None:
            nonlocal asked
            again, asked = asked, True
            self.known, self.may_exist = f"it is not known whether {submission_id} was submitted", True
            try:
                client.submit_job(entrypoint=entrypoint, submission_id=submission_id, runtime_env=runtime_env)
            except RuntimeError as error:
                if _is_outage(error):
                    raise ConnectionError(str(error)) from error
                if not (again and "already" in str(error)):  # otherwise the answer to the first request was lost
                    raise UsageError(f"the cluster refuses the job: {error}") from error

        self.known, self.may_exist = "nothing was submitted", False
        asyncio.run(self._until_answered(ask))
        self.known = f"{submission_id} was submitted and may run on"
        self._shown = 0

    def follow(self, submission_id: str) -> Ended:
        """Shows the job's output from its beginning. Returns how the job ended.

        Raises:
            UnreachableError: see `give_up_s`.
        """
        if not self.may_exist:
            self.known, self.may_exist = f"nothing was learned of {submission_id}", True
        try:
            return asyncio.run(self._until_answered(lambda client: self._follow(client, submission_id)))
        except JobLostError as error:
            return Ended(LOST_JOB, None, str(error))

    async def _follow(self, client: JobSubmissionClient, submission_id: str) -> Ended:
        while True:
            info = self._info(client, submission_id)
            running = info.status in (JobStatus.PENDING, JobStatus.RUNNING)
            self.known = f"{submission_id} was {str(info.status).lower()} at {time.strftime('%H:%M:%S')}"
            self.known += " and may run on" if running else ""
            if info.status != JobStatus.PENDING:
                await self._show_log(client, submission_id)
            if not running:
                return Ended(str(info.status), info.driver_exit_code, " ".join((info.message or "").split())[:300])
            await asyncio.sleep(FIRST_PAUSE_S)

    async def _show_log(self, client: JobSubmissionClient, submission_id: str) -> None:
        """Shows new output, until the log ends or is quiet."""
        position = 0
        log = client.tail_job_logs(submission_id)
        try:
            while True:
                try:
                    chunk = await asyncio.wait_for(anext(log), QUIET_S)
                except (StopAsyncIteration, TimeoutError):
                    return
                position += len(chunk)
                if position > self._shown:
                    self._show(chunk[len(chunk) - (position - self._shown) :])
                    self._shown = position
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error
        finally:
            await log.aclose()  # type: ignore[attr-defined]

    def _info(self, client: JobSubmissionClient, submission_id: str) -> Any:
        try:
            return client.get_job_info(submission_id)
        except RuntimeError as error:
            if "status code 404" in str(error):
                raise JobLostError(f"the cluster at {self.address} knows no job {submission_id!r}") from error
            raise ConnectionError(str(error)) from error

    async def _until_answered(self, ask: Callable[[JobSubmissionClient], Awaitable[Answer]]) -> Answer:
        """Repeats a request until it is answered, with a new connection after each loss."""
        pause_s, lost_at = FIRST_PAUSE_S, None
        while True:
            try:
                client = self._connected()
                if lost_at is not None:
                    self._log(f"connected to {self.address} again after {time.monotonic() - lost_at:.0f} s")
                    pause_s, lost_at = FIRST_PAUSE_S, None
                return await ask(client)
            except AuthenticationError as error:
                raise UsageError(
                    f"{self.address} wants a token: set RAY_AUTH_MODE=token, with the cluster's token in "
                    f"RAY_AUTH_TOKEN or ~/.ray/auth_token ({str(error).splitlines()[0]})"
                ) from error
            except LOST as error:
                self._client = None
                reason = " ".join(str(error).split())[:200]
                if lost_at is None:
                    lost_at = time.monotonic()
                    self._log(f"no answer from {self.address} ({reason}); {self.known}; trying again")
                limit_s = self._give_up_s if self._reached else min(self._give_up_s, REACH_S)
                left_s = limit_s - (time.monotonic() - lost_at)
                if left_s <= 0:
                    raise self._given_up(limit_s, reason) from error
                await asyncio.sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _connected(self) -> JobSubmissionClient:
        if self._client is None:
            os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # Ray prefers it to the client's argument
            logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
            if not self._reached:
                try:
                    job_client(self.address, REACH_S)  # it asks for Ray's version
                except RuntimeError as error:
                    raise UsageError(f"--address {self.address!r} is no dashboard of a Ray cluster: {error}") from error
                self._reached = True
            self._client = job_client(self.address, REQUEST_TIMEOUT_S)
        return self._client

    def _given_up(self, limit_s: float, reason: str) -> UnreachableError:
        if not self._reached:
            return UnreachableError(
                f"{self.address} was not reached within {limit_s:.0f} s ({reason}); {self.known}. Start the cluster, "
                "open the way to its dashboard, or correct --address",
                self.may_exist,
            )
        return UnreachableError(
            f"{self.address} has not answered for {limit_s / 60:.0f} min ({reason}); {self.known}", self.may_exist
        )


def _is_outage(error: RuntimeError) -> bool:
    """True if the request may succeed later, because the cluster or a proxy in front of it is temporarily down."""
    text = str(error)
    return any(f"status code {code}" in text for code in (502, 503, 504)) or "Failed to connect" in text
