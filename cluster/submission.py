"""A job that is submitted again, where that helps, until it has come to its end."""

import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster.job_client import Ended, JobFollower
from pipeline.errors import ExitCode

SIGNAL_BASE = 128
"""A process that signal n ended has exit code -n for Python, and 128 + n for a shell and for us."""


class SubmittedJob:
    """A job on a cluster, in as many submissions as it takes.

    Args:
        follower: of the cluster.
        command: the job's words; empty for one that is only waited for.
        runtime_env: Ray's runtime environment of it.
        name: of the submissions, to which the attempt is added.
        attached: id of a submission to begin with, instead of a new one.
    """

    def __init__(
        self, follower: JobFollower, command: Sequence[str], runtime_env: dict[str, Any], name: str, attached: str = ""
    ) -> None:
        self._follower, self._command, self._runtime_env, self._name = follower, command, runtime_env, name
        self.submission = attached
        """Id of the submission that is waited for; empty between two."""

    def run(self, resubmissions: int, pause_s: float, log: Callable[[str], None]) -> Ended:
        """Submits, follows, and submits again; returns how the last submission ended.

        Args:
            resubmissions: in a row of a job that broke off without a reason of its own; preemptions do not count.
            pause_s: before another one.
            log: gets a line at each turn.

        Raises:
            UnreachableError: the cluster has not answered for too long.
        """
        attempt, broken = 1, 0
        while True:
            if not self.submission:
                self.submission = f"{self._name}-{attempt}"
                self._follower.submit(self.submission, shlex.join(self._command), self._runtime_env)
                log(f"submit: {self.submission} is on {self._follower.address}")
            ended = self._follower.follow(self.submission)
            code = exit_code(ended)
            log(f"submit: {self.submission} ended: {ended.status}, exit code {code}")
            broken = broken + 1 if code != ExitCode.PREEMPTED else 0
            if not may_go_on(ended) or not self._command or broken > resubmissions:
                return ended
            attempt, self.submission = attempt + 1, ""
            log(f"submit: submitting again in {pause_s:g} s, to go on from the last checkpoint")
            time.sleep(pause_s)


def unused_name(job: str) -> str:
    """A submission id that no other submission has, even of the same second."""
    return f"{Path(job).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"


def may_go_on(ended: Ended) -> bool:
    """Whether the same job, submitted again, can be expected to get further. What a person stopped stays stopped."""
    if ended.status in ("SUCCEEDED", "STOPPED"):
        return False
    code = ended.exit_code
    return code is None or code < 0 or code > SIGNAL_BASE or code in (ExitCode.OTHER, ExitCode.PREEMPTED)


def exit_code(ended: Ended) -> int:
    """The job's own; 1 where it has none and did not succeed."""
    if ended.exit_code is None:
        return ExitCode.DONE if ended.status == "SUCCEEDED" else ExitCode.OTHER
    return ended.exit_code if ended.exit_code >= 0 else SIGNAL_BASE - ended.exit_code
