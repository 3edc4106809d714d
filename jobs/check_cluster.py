#!/usr/bin/env -S python -P
"""Checks cluster files before they cost money: placeholders, Ray's rules, and the cloud's model of a node."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass

import tyro

from jobs.common.cli import run_job
from pipeline.errors import UsageError
from pipeline.runtime.terminal import say, say_error


@dataclass(frozen=True)
class Options:
    """Flags of `check_cluster`."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Files for `ray up` (provider aws, gcp or local), or KubeRay manifests; the project's own also by name, as in
    aws_a100."""


def main(options: Options) -> None:
    """Prints the problems of each file, or its nodes if there are none."""
    if not options.files:
        raise UsageError("name at least one file, as in cluster/aws_a100.yaml")

    from cluster.checks import check_file

    wrong = 0
    for path in options.files:
        problems, nodes = check_file(path)
        for problem in problems:
            say_error(problem)
        for line in nodes if not problems else ():
            say(line)
        wrong += len(problems)
    if wrong:
        raise UsageError(f"{wrong} problems to fix; nothing was started")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
