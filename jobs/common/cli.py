"""The flags that all jobs share, and how jobs end."""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.common.exit_codes import OURS, ExitCode, exit_code_of
from jobs.common.flags import check_given_once, expanded
from jobs.common.recipes import load_recipe
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError, WorkersLostError
from pipeline.runs.paths import RunPaths, checkout, run_paths
from pipeline.runtime.cluster_watch import cluster_error, say_last
from pipeline.runtime.terminal import say, say_error
from pipeline.runtime.termination import exit_soon, interrupt_on_sigterm, was_terminated
from tokenization.files.checks import unwritable
from tokenization.files.room import fullest, is_full
from tokenization.patience import OUTAGE_VARIABLE
from tokenization.waiting import Outlet

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a job that SIGTERM has ended, without a checkpoint."""
LOST = ("WorkerCrashedError", "RayActorError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError")
"""Ray's errors about processes and nodes that ended while they worked for a job."""


@dataclass(frozen=True)
class JobOptions:
    """Flags of every job."""

    recipe: str = "demo"
    """Name of a file in jobs/recipes, or the path of a .py file anywhere, whose function recipe() returns a Recipe."""
    root: str = ""
    """Folder of the runs (default: `runs` in the checkout; without one, here). Must be absolute with --working-dir."""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="A.B=VALUE")] = ()
    """Override one value of the recipe, as in --set stages.0.steps=50. May be repeated."""

    def resolve(self) -> tuple[Recipe, RunPaths]:
        """Returns the recipe with its overrides, and the run's folders."""
        recipe = load_recipe(self.recipe, self.set)
        os.environ[OUTAGE_VARIABLE] = str(recipe.outage_s)
        return recipe, run_paths(self.root, recipe)


def at_least(options: Any, **least: float) -> None:
    """Checks flags against their minimum values.

    Raises:
        UsageError: a flag is below its minimum.
    """
    for name, lowest in least.items():
        if not (value := getattr(options, name)) >= lowest:  # also what is not a number
            raise UsageError(f"--{name.replace('_', '-')} is {value:g}, but must be at least {lowest:g}")


def run_job(
    options_type: Any,
    job: Callable[[Any], dict[str, Any] | None],
    description: str,
    words: Sequence[str] | None = None,
) -> None:
    """Parses the flags, runs the job, prints an error in one line, and exits with the job's code.

    The flags are parsed into `options_type`, a dataclass, or a union of them for subcommands. They come from the
    command line unless `words` are given. A dict that the job returns is its result: with `--json` it is the last line
    of the output.
    """
    words = list(sys.argv[1:] if words is None else words)
    code: int = ExitCode.OTHER
    interrupt_on_sigterm()
    try:
        code = _ended(options_type, job, description, words)
    finally:
        exit_soon(code)
    sys.exit(code)


def _ended(
    options_type: Any, job: Callable[[Any], dict[str, Any] | None], description: str, words: Sequence[str]
) -> int:
    """Runs the job to its end. Returns its exit code."""
    Outlet.say, options = say, None
    try:
        if not {"-h", "--help"} & set(words):
            check_given_once(options_type, words)
        options = tyro.cli(options_type, description=description, args=words)
        result = job(expanded(options))
    except KeyboardInterrupt:
        say_last(f"{'ended by SIGTERM' if was_terminated() else 'interrupted'}; run the same command again to go on")
        return TERMINATED if was_terminated() else ExitCode.OTHER
    except Exception as error:
        error = _cause(error)
        if not isinstance(error, OURS):
            error = cluster_error(error)
        code = exit_code_of(error)
        if isinstance(error, OURS):
            say_last(f"error: {error}")
            return code
        if reason := unwritable(error):
            say_error(f"error: {_full_disk(error, getattr(options, 'root', ''))}{reason}")
            return ExitCode.INPUT
        raise
    if result is not None and getattr(options, "json", False):
        print_result(result)
    return ExitCode.DONE


def _full_disk(error: Exception, root: str) -> str:
    """The folder whose disk is full, if the error does not name a file."""
    if getattr(error, "filename", None) or not is_full(error):
        return ""
    place = fullest([Path(root or checkout()).expanduser(), Path(tempfile.gettempdir())])
    return f"{str(place)!r}: "


def print_result(result: dict[str, Any]) -> None:
    """Prints a job's result as one JSON object on one line."""
    print(json.dumps(result, ensure_ascii=False))


def _cause(error: Exception) -> Exception:
    """Returns the error that a Ray task raised, without Ray's traceback, or a WorkersLostError if Ray has lost the
    task's process; any other error unchanged."""
    exceptions = sys.modules.get("ray.exceptions")  # without Ray there is no such error, and loading it takes seconds
    if not exceptions:
        return error
    if isinstance(error, exceptions.RayTaskError) and error.cause is not None:
        error = error.cause
    if isinstance(error, tuple(getattr(exceptions, name) for name in LOST)):
        what = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return WorkersLostError(f"Ray has lost a process of this job ({what}); run the same command again to resume")
    return error
