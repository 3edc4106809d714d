#!/usr/bin/env -S python -P
"""Submits a job to a Ray cluster, waits for it over lost connections, and ends with the job's own exit code.

Everything after -- is the job: jobs/submit.py -- jobs/train_stage.py --recipe mars_7b --root /shared/runs --stage 1

A job that was preempted (exit code 7), or that broke off without a reason of its own (1, killed, or lost with its
cluster), is submitted again and goes on from its last checkpoint. Ctrl-C leaves the job running.
"""

import jobs  # noqa: F401  # isort: skip
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cluster.job_client import Ended, JobFollower, UnreachableError
from jobs.common.exit_codes import ExitCode
from pipeline.errors import UsageError
from pipeline.runtime.terminal import say, say_error

CHECKOUT = Path(__file__).resolve().parents[1]

SIGNAL_BASE = 128
"""A process that signal n ended has exit code -n for Python, and 128 + n for a shell and for us."""


@dataclass(frozen=True)
class Options:
    """Flags of `submit`."""

    address: str = ""
    """The cluster's dashboard. Default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265, where `ray dashboard` and
    `kubectl port-forward` bring it."""
    working_dir: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: the checkout)")] = str(CHECKOUT)
    """Folder that the job runs from, sent to the cluster (512 MiB at most; what .gitignore names is left out). Empty:
    the checkout that the cluster was started from."""
    env: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Environment variable of the job and its workers. May be repeated."""
    name: str = ""
    """Submission id, to which the attempt is added. Default: the job's file name and the time."""
    attach: str = ""
    """Submission id of a job to wait for that was submitted before, instead of a new one."""
    resubmissions: int = 3
    """How often in a row to submit again a job that broke off without a reason of its own. Preemptions do not count."""
    pause_s: float = 10.0
    """Seconds before submitting again: what broke the job may need a moment."""
    give_up_min: float = 60.0
    """Minutes without an answer after which the cluster counts as gone."""


def main(options: Options, command: list[str]) -> None:
    """Submits, follows, and submits again where that helps; exits with the job's code."""
    if not command and not options.attach:
        raise UsageError("no job: write it after --, as in jobs/submit.py -- jobs/train_stage.py --stage 1")
    if options.resubmissions < 0 or options.pause_s < 0 or options.give_up_min <= 0:
        raise UsageError("--resubmissions and --pause-s must be at least 0, and --give-up-min above 0")
    runtime_env = runtime_environment(options)
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    follower = JobFollower(address, options.give_up_min * 60, say, show)
    name = options.name or (unused_name(command[0]) if command else options.attach)
    attempt, broken, submission = 1, 0, options.attach
    try:
        while True:
            if not submission:
                submission = f"{name}-{attempt}"
                follower.submit(submission, shlex.join(command), runtime_env)
                say(f"submit: {submission} is on {address}")
            ended = follower.follow(submission)
            code = exit_code(ended)
            say(f"submit: {submission} ended: {ended.status}, exit code {code}")
            broken = broken + 1 if code != ExitCode.PREEMPTED else 0
            if not may_go_on(ended) or not command or broken > options.resubmissions:
                if ended.exit_code is None and ended.message:
                    say_error(ended.message)
                sys.exit(code)
            attempt, submission = attempt + 1, ""
            say(f"submit: submitting again in {options.pause_s:g} s, to go on from the last checkpoint")
            time.sleep(options.pause_s)
    except UnreachableError as error:
        say_error(f"error: {error}; the job may run on. Wait for it again: {again(options, submission, command)}")
        sys.exit(ExitCode.OTHER)
    except KeyboardInterrupt:
        say(f"submit: left {submission or name}; a submitted job runs on. Stop it: ray job stop {submission}")
        say(f"submit: wait for it again: {again(options, submission, command)}")
        sys.exit(ExitCode.OTHER)


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


def runtime_environment(options: Options) -> dict[str, Any]:
    """What the job needs to run on the cluster.

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
    """The command that waits for the same job."""
    words = ["jobs/submit.py", *(["--address", options.address] if options.address else [])]
    words += ["--attach", submission] if submission else []
    return shlex.join([*words, *(["--", *command] if command else [])])


def show(text: str) -> None:
    """The job's output, as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    # The job's options are not ours: nothing after -- is parsed.
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    job = sys.argv[place + 1 :]
    del sys.argv[place:]
    # Not by `run_job`: whoever only submits needs neither torch nor the seconds that it takes to load.
    options = tyro.cli(Options, description=__doc__)
    try:
        main(options, job)
    except UsageError as error:
        say_error(f"error: {error}")
        sys.exit(ExitCode.USAGE)
