"""Resubmits a job, if that can help, until it has ended."""

import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.job_client import LOST_JOB, Ended, JobFollower
from pipeline.errors import ExitCode

SIGNAL_BASE = 128
"""A process that signal n ended has exit code -n for Python, and 128 + n for a shell and for us."""


class SubmittedJob:
    """A job on a cluster, with as many submissions as it needs.

    Args:
        follower: follower for the cluster.
        command: command line of the job; empty for a job that is only followed.
        runtime_env: Ray runtime environment of the job.
        name: name of the submissions; the attempt number is appended.
        attached: id of an existing submission to follow first, instead of a new one.
    """

    def __init__(
        self, follower: JobFollower, command: Sequence[str], runtime_env: dict[str, Any], name: str, attached: str = ""
    ) -> None:
        self._follower, self._command, self._runtime_env, self._name = follower, command, runtime_env, name
        self.submission = attached
        """Id of the submission that is waited for; empty between two."""

    def run(self, resubmissions: int, pause_s: float, log: Callable[[str], None]) -> Ended:
        """Submits, follows, and submits again. Returns how the last submission ended.

        Args:
            resubmissions: maximum number in a row after unexplained failures; preemptions do not count.
            pause_s: seconds before each resubmission.
            log: called with a line for each event.

        Raises:
            UnreachableError: the cluster did not answer within the time limit.
        """
        attempt, broken = 1, 0
        while True:
            if not self.submission:
                self.submission = f"{self._name}-{attempt}"
                self._follower.submit(self.submission, shlex.join(self._command), self._runtime_env)
                log(f"submit: {self.submission} is on {self._follower.address}")
            ended = self._follower.follow(self.submission)
            code = exit_code(ended)
            log(f"submit: {outcome(self.submission, ended)}")
            broken = broken + 1 if code != ExitCode.PREEMPTED else 0
            if not may_go_on(ended) or not self._command or broken > resubmissions:
                return ended
            attempt, self.submission = attempt + 1, ""
            log(f"submit: submitting again in {pause_s:g} s, to go on from the last checkpoint")
            time.sleep(pause_s)


def unused_name(job: str) -> str:
    """Returns a submission id that is unique, even among submissions in the same second."""
    return f"{Path(job).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"


def outcome(submission: str, ended: Ended) -> str:
    """Says how a job ended, as far as the cluster knows."""
    if ended.status == LOST_JOB:
        return f"{submission} is lost: {ended.message}; how it ended is not known"
    if ended.exit_code is None:
        return f"{submission} ended: {ended.status}, without an exit code"
    return f"{submission} ended: {ended.status}, exit code {exit_code(ended)}"


def may_go_on(ended: Ended) -> bool:
    """True if a resubmission can be expected to get further. A job that a person stopped stays stopped."""
    if ended.status in ("SUCCEEDED", "STOPPED"):
        return False
    code = ended.exit_code
    return code is None or code < 0 or code > SIGNAL_BASE or code in (ExitCode.OTHER, ExitCode.PREEMPTED)


def exit_code(ended: Ended) -> int:
    """Returns the job's own exit code, or 1 if it has none and did not succeed."""
    if ended.exit_code is None:
        return ExitCode.DONE if ended.status == "SUCCEEDED" else ExitCode.OTHER
    return ended.exit_code if ended.exit_code >= 0 else SIGNAL_BASE - ended.exit_code
