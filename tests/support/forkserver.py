"""The process from which tests fork ranks, jobs and Ray's workers; it has imported `tests.support.preload`."""

import multiprocessing
import os
import runpy
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
    sys.dont_write_bytecode = False  # else each program compiles the project anew
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN_PACKAGES]:
        del sys.modules[name]


def run_job(words: list[str], environment: dict[str, str], cwd: str | Path, python: str) -> None:
    """Becomes `python -P WORDS...`. Ray starts its workers with `python`."""
    take_over(environment, cwd)
    sys.executable = python
    sys.argv, sys.path[:] = list(words), [str(cwd), *filter(None, sys.path)]
    runpy.run_path(words[0], run_name="__main__")
