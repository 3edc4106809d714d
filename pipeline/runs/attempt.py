"""The ledger's record of one attempt of a job."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.actor import ActorProxy

from pipeline.ledger.account import DayLimits
from pipeline.ledger.actor import LedgerActor, keep_ledger, new_attempt
from pipeline.runs.outages import saying_outages
from pipeline.runs.paths import RunPaths
from pipeline.runtime.ray_connection import check_gpus, connect_to_ray
from pipeline.runtime.shortage import saying_what_is_awaited
from pipeline.runtime.terminal import say as say
from pipeline.runtime.terminal import say_error as say_error
from tokenization.files.checks import check_writable

NO_LIMITS = DayLimits()


def connect_run(paths: RunPaths, use_gpu: bool, forks_workers: bool = False) -> None:
    """Connects a job to Ray that writes to the run. For `forks_workers` see `connect_to_ray`.

    Raises:
        UsageError: the job uses GPUs, and could have none; see `check_gpus`.
        InputError: the run's folder cannot be written.
    """
    check_gpus(use_gpu)
    check_writable(paths.run)
    connect_to_ray(forks_workers)


@contextmanager
def ledger_attempt(
    paths: RunPaths, job: str, use_gpu: bool, stage: str = "", limits: DayLimits = NO_LIMITS
) -> Iterator[ActorProxy[LedgerActor]]:
    """Connects to Ray and keeps the ledger of the enclosed work. Yields the ledger's actor handle.

    It counts the GPUs that Ray reports for the job, or the CPUs if it uses no GPU. For tasks see `reserved`.

    Raises:
        UsageError, InputError: see `connect_run`.
    """
    connect_run(paths, use_gpu)
    attempt = new_attempt(paths.ledger, paths.recipe.name, job, stage, "GPU" if use_gpu else "CPU", limits)
    problems: list[str] = []
    try:
        with (
            saying_what_is_awaited(job),
            saying_outages(paths, job),
            keep_ledger(paths.ledger, attempt, paths.recipe.heartbeat_s, problems) as ledger,
        ):
            yield ledger
    finally:
        for problem in problems:
            say_error(problem)
