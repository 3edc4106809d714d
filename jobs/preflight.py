#!/usr/bin/env -S python -P
"""Checks a cluster for a recipe before a run: nodes, versions, clocks, devices, storage, inputs, ops, links, and one
step of every kind, twice.

Prints a table, what to do, and a verdict. Exit codes: 0 ready, also with warnings; 8 not ready (with --strict, also
where there are warnings); 2 and 3 as for every job.
"""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from jobs.common.cli import JobOptions, print_result, run_job
from pipeline.config.preflight import SUBJECTS, PreflightSettings
from pipeline.errors import NotReadyError, UsageError


@dataclass(frozen=True)
class Options(PreflightSettings, JobOptions):
    """Flags of `preflight`."""

    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SUBJECT")] = ()
    """Check only this: nodes, versions, clocks, devices, storage, inputs, ops, network or steps. May be repeated."""
    strict: bool = False
    """Warnings count as failures."""
    json: bool = False
    """Print all findings as one JSON object on the last line, whatever the verdict."""


def main(options: Options) -> dict[str, Any]:
    """Makes the checks and shows what was found.

    Raises:
        NotReadyError: a check failed.
    """
    for name in options.only:
        if name not in SUBJECTS:
            raise UsageError(f"--only {name}: the subjects are {', '.join(SUBJECTS)}")
    for name, value in (("minutes", options.minutes), ("wait-minutes", options.wait_minutes)):
        if value < 0 or (name == "minutes" and value == 0):
            raise UsageError(f"--{name} is {value:g}, but must be {'above' if name == 'minutes' else 'at least'} 0")
    recipe, paths = options.resolve()

    from pipeline.preflight.finding import Verdict
    from pipeline.preflight.run import run_preflight
    from pipeline.reports.preflight_table import as_object, not_well, show

    report = run_preflight(recipe, paths, options, options.only)
    show(report, options.json)
    result = as_object(recipe.name, report)
    if report.verdict >= (Verdict.WARNING if options.strict else Verdict.FAILED):
        if options.json:
            print_result(result)
        raise NotReadyError(f"the cluster is not ready for recipe {recipe.name!r}: {', '.join(not_well(report))}")
    return result


if __name__ == "__main__":
    run_job(Options, main, __doc__)
