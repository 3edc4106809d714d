"""The process from which tests fork ranks and jobs; it has imported `tests.support.preload`."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def forkserver() -> ForkServerContext:
    """Returns the context that forks from it. It starts with the first process that is forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preload"])
    return context
