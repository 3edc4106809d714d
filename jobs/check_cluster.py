#!/usr/bin/env -S python -P
"""Checks cluster files before anything is paid for: placeholders, Ray's rules, and the cloud's model of a node."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from pathlib import Path

import tyro

from cluster.checks import describe, problems_of
from cluster.cluster_file import placeholders, read_cluster_file
from jobs.common.cli import run_job
from pipeline.errors import UsageError
from pipeline.runtime.terminal import say, say_error


@dataclass(frozen=True)
class Options:
    """Flags of `check_cluster`."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Files for `ray up` (provider aws, gcp or local), or KubeRay manifests."""


def main(options: Options) -> None:
    """Tells what is wrong, and what the file's nodes are where nothing is."""
    if not options.files:
        raise UsageError("name at least one file, as in cluster/aws_a100.yaml")
    wrong = 0
    for path in options.files:
        if is_job(path):
            found = [
                f"{path}:{line}: {name} is still to be filled in" for line, name in placeholders(Path(path).read_text())
            ]
            lines = ["a RayJob; its nodes are those of its RayCluster"]
        else:
            cluster = read_cluster_file(path)
            found, lines = problems_of(cluster), [describe(kind) for kind in cluster.node_types]
        for problem in found:
            say_error(problem)
        wrong += len(found)
        for line in lines if not found else ():
            say(f"{path}: {line}")
    if wrong:
        raise UsageError(f"{wrong} things to mend; nothing was started")


def is_job(path: str) -> bool:
    """Whether it is a manifest of a RayJob."""
    return Path(path).is_file() and "\nkind: RayJob\n" in f"\n{Path(path).read_text()}"


if __name__ == "__main__":
    run_job(Options, main, __doc__)
