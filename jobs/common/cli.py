"""What all jobs share: their flags, their way to Ray, their ledger, and how they end."""

import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import ray
import ray.data
import torch
import tyro
from ray._private.utils import read_ray_address
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from jobs.common.exit_codes import OURS, ExitCode, exit_code_of
from jobs.common.recipe import Recipe, load_recipe
from jobs.common.run_paths import RunPaths, run_paths
from jobs.common.terminal import complain as complain
from jobs.common.terminal import console
from jobs.common.terminal import say as say
from pipeline.ledger import keep_ledger, new_attempt
from pipeline.ledger_account import Limits

KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_ARENA_MAX": "1",
}
"""glibc's settings (mallopt(3)) for a Ray that a job starts on a machine without a GPU: freed memory stays with the
process. As they come, large tensors are mapped anew and their pages faulted in, about a tenth of the demo's step. Ray
Train runs the loop in a thread, whose own arena would not keep them: one arena for all threads."""

WORKER_OUTPUT = "MARS_WORKER_OUTPUT"
"""Environment variable: 1 shows what Ray's workers and the libraries in them print."""

NO_LIMITS = Limits()
RESERVE_S = 60.0
"""Between two lines about devices that are waited for."""


@dataclass(frozen=True)
class JobOptions:
    """Flags of every job."""

    recipe: str = "demo"
    """Name of a file in jobs/recipes."""
    root: str = ""
    """Folder that holds the runs (default: `runs` in the checkout). Must be absolute with --working-dir."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="A.B=VALUE")] = ()
    """Override one value of the recipe, as in --set stages.0.steps=50. May be repeated."""

    def resolve(self) -> tuple[Recipe, RunPaths]:
        """The recipe with its overrides, and the run's folders."""
        recipe = load_recipe(self.recipe, self.set)
        return recipe, run_paths(self.root, recipe)


def run_job(options_type: Any, job: Callable[[Any], dict[str, Any] | None], description: str) -> None:
    """Parses the flags into `options_type` (a dataclass, or a union of them for subcommands), runs the job, prints its
    error in one line, and exits with its code.

    A dict that the job returns is its result: with `--json` the last line of the output.
    """
    options = tyro.cli(options_type, description=description)
    try:
        result = job(options)
    except KeyboardInterrupt:
        console.print("interrupted; run the same command again to go on")
        sys.exit(ExitCode.OTHER)
    except Exception as error:
        if isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None:
            error = error.cause  # what the task raised, without Ray's traceback around it
        code = exit_code_of(error)
        if not isinstance(error, OURS):
            raise
        complain(f"error: {error}")
        sys.exit(code)
    if result is not None and getattr(options, "json", False):
        print(json.dumps(result, ensure_ascii=False))
    sys.exit(ExitCode.DONE)


def connect_to_ray() -> None:
    """Joins the cluster at hand (RAY_ADDRESS, or one that runs on this machine), or starts Ray here."""
    if not ray.is_initialized():
        # A cluster that was killed leaves its address behind, and Ray would wait for it for minutes, again and again.
        address = None if "RAY_ADDRESS" in os.environ or _answers(read_ray_address()) else "local"
        # The libraries' notices of changes to come are for us, not for whoever runs the job.
        os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
        small = address == "local" and not torch.cuda.is_available()
        if small:
            for name, value in KEEP_FREED_MEMORY.items():
                os.environ.setdefault(name, value)
        ray.init(
            address,
            # The dashboard of a Ray that ends with the job would cost more of a few cores than it shows.
            include_dashboard=False if small else None,
            logging_level=logging.ERROR,
            log_to_driver=os.environ.get(WORKER_OUTPUT, "0") == "1",
        )
    # Jobs report their own progress; Ray Data's tables would bury it.
    ray.data.DataContext.get_current().enable_progress_bars = False
    # What it says of memory is about imports of torch that all workers share.
    ray.data.DataContext.get_current().issue_detectors_config.detectors = []
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


@contextmanager
def counted(paths: RunPaths, job: str, use_gpu: bool, stage: str = "", limits: Limits = NO_LIMITS) -> Iterator[Any]:
    """Connects to Ray and keeps the ledger of the enclosed work. Yields the ledger's actor handle.

    What is counted is what the job holds of GPUs, or of CPUs where it uses none, as Ray says; see `reserved` for tasks.
    """
    connect_to_ray()
    attempt = new_attempt(paths.ledger, paths.recipe.name, job, stage, "GPU" if use_gpu else "CPU", limits)
    problems: list[str] = []
    try:
        with keep_ledger(paths.ledger, attempt, paths.recipe.heartbeat_s, problems) as ledger:
            yield ledger
    finally:
        for problem in problems:
            complain(problem)


@contextmanager
def reserved(cpus: int, gpus: int = 0, together: bool = False) -> Iterator[PlacementGroupSchedulingStrategy]:
    """Holds devices for tasks, so that the ledger sees them. Yields the tasks' `scheduling_strategy`.

    Args:
        cpus, gpus: in all; fewer where the cluster has fewer CPUs.
        together: for one task that takes them all; else for tasks of one CPU each.
    """
    total = int(ray.cluster_resources().get("CPU", 1))
    gpu = {"GPU": float(gpus)} if gpus else {}
    bundles = [{"CPU": float(cpus)} | gpu] if together else [{"CPU": 1.0} | gpu] * max(1, min(cpus, total))
    group = placement_group(bundles)
    try:
        while not group.wait(timeout_seconds=RESERVE_S):
            say(f"waiting for {cpus} CPUs{f' and {gpus} GPUs' if gpus else ''}; `ray status` shows who has them")
        yield PlacementGroupSchedulingStrategy(group)
    finally:
        remove_placement_group(group)


def say_what_is_short(num_cpus: float, num_gpus: float) -> None:
    """Says so where workers will wait: the cluster has not that much free now."""
    free = ray.available_resources()
    for kind, wanted in (("CPU", num_cpus), ("GPU", num_gpus)):
        if free.get(kind, 0) < wanted:
            say(f"waiting for {wanted:g} {kind}s, {free.get(kind, 0):g} are free; `ray status` shows who has them")


def _answers(address: str | None) -> bool:
    """Whether something listens at `host:port`."""
    host, separator, port = (address or "").rpartition(":")
    if not separator:
        return False
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False
