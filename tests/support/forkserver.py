"""The process from which tests fork ranks, jobs and Ray's workers; it has imported `tests.support.preload`."""

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

OWN_PACKAGES = ("pipeline", "tokenization", "jobs", "cluster", "tests")
"""Packages that a forked program imports anew: those of its working directory, which may be a copy of the checkout."""


def forkserver() -> ForkServerContext:
    """Returns the context that forks from it. It starts with the first process that is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preload"])
    return context


def take_over(environment: dict[str, str], cwd: str | Path) -> None:
    """Gives a forked process the environment and the working directory of the program that it becomes."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN_PACKAGES]:
        del sys.modules[name]
