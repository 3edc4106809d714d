#!/usr/bin/env -S python -P
"""Submits a job to a Ray cluster, waits for it over lost connections, and ends with the job's own exit code.

Everything after -- is the job: jobs/submit.py -- jobs/train_stage.py --recipe mars_7b --root /shared/runs --stage 1

A job that was preempted (exit code 7), or that failed without an error of its own (1, killed, or lost with its
cluster), is submitted again and resumes from its last checkpoint. Ctrl-C leaves the job running.

It says only what the cluster has answered: that nothing was submitted (exit code 3), that a job was submitted, that it
is lost because the cluster does not know it (1), or how it ended (the job's own code).
"""

import jobs  # noqa: F401  # isort: skip
import os
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.common.cli import run_job
from pipeline.errors import ExitCode, UsageError
from pipeline.runs.paths import checkout
from pipeline.runtime.terminal import say, say_error


@dataclass(frozen=True)
class Options:
    """Flags of `submit`."""

    address: str = ""
    """The cluster's dashboard. Default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265, which `ray dashboard` and
    `kubectl port-forward` provide."""
    working_dir: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: the checkout, or this folder)")] = str(
        checkout()
    )
    """Folder that the job runs from, sent to the cluster (512 MiB at most, without the files in .gitignore). Empty:
    the checkout that the cluster was started from."""
    env: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Environment variable of the job and its workers. May be repeated."""
    name: str = ""
    """Submission id; the attempt number is appended. Default: the job's file name and the time."""
    attach: str = ""
    """Submission id of an existing job to follow, instead of submitting a new one."""
    resubmissions: int = 3
    """Maximum number of resubmissions in a row after unexplained failures. Preemptions do not count."""
    pause_s: float = 10.0
    """Seconds before each resubmission, so that a temporary fault can pass."""
    give_up_min: float = 60.0
    """Minutes without an answer from the cluster after which the job client gives up. A cluster that has not answered
    at all is given up after 15 s."""


def main(options: Options, command: list[str]) -> None:
    """Submits, follows, and resubmits the job if that can help. Exits with the job's code."""
    if not command and not options.attach:
        raise UsageError("no job: write it after --, as in jobs/submit.py -- jobs/train_stage.py --stage 1")
    if options.resubmissions < 0 or options.pause_s < 0 or options.give_up_min <= 0:
        raise UsageError("--resubmissions and --pause-s must be at least 0, and --give-up-min above 0")
    runtime_env = runtime_environment(options)
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"

    from cluster.job_client import LOST_JOB, JobFollower, UnreachableError
    from cluster.submission import SubmittedJob, exit_code, unused_name

    follower = JobFollower(address, options.give_up_min * 60, say, show)
    name = options.name or (unused_name(command[0]) if command else options.attach)
    job = SubmittedJob(follower, command, runtime_env, name, options.attach)
    try:
        ended = job.run(options.resubmissions, options.pause_s, say)
    except UnreachableError as error:
        remedy = f". Wait for it again: {again(options, job.submission, command)}" if error.may_exist else ""
        say_error(f"error: {error}{remedy}")
        sys.exit(ExitCode.OTHER if error.may_exist else ExitCode.INPUT)
    except KeyboardInterrupt:
        say(f"submit: interrupted; {follower.known}")
        if follower.may_exist:
            say(f"submit: wait for it again: {again(options, job.submission, command)}")
            say(f"submit: or stop it: ray job stop --address {address} {job.submission}")
        sys.exit(ExitCode.OTHER)
    if ended.exit_code is None and ended.message and ended.status != LOST_JOB:
        say_error(ended.message)
    sys.exit(exit_code(ended))


def runtime_environment(options: Options) -> dict[str, Any]:
    """Returns the runtime environment of the job on the cluster.

    Raises:
        UsageError: a variable is not NAME=VALUE, or the folder does not exist.
    """
    variables = {}
    for pair in options.env:
        variable, separator, value = pair.partition("=")
        if not variable or not separator:
            raise UsageError(f"--env {pair!r}: write NAME=VALUE")
        variables[variable] = value
    if not options.working_dir:
        return {"env_vars": variables}
    if not Path(options.working_dir).is_dir():
        raise UsageError(f"--working-dir {options.working_dir!r} is no folder")
    return {"working_dir": options.working_dir, "env_vars": variables, "excludes": ["/.git", "/.venv", "/runs"]}


def again(options: Options, submission: str, command: list[str]) -> str:
    """Returns the command that follows the same job."""
    words = ["jobs/submit.py", *(["--address", options.address] if options.address else [])]
    words += ["--attach", submission] if submission else []
    return shlex.join([*words, *(["--", *command] if command else [])])


def show(text: str) -> None:
    """Prints the job's output unchanged."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    # The words after -- are the job's command, not our options.
    words = sys.argv[1:]
    separator = words.index("--") if "--" in words else len(words)
    own, command = words[:separator], words[separator + 1 :]
    run_job(Options, partial(main, command=command), __doc__, own)
