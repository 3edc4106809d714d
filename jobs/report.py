#!/usr/bin/env -S python -P
"""Shows a run, finished or not, on one HTML page: progress, losses, pictures, scores, time, the ledger."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass

from jobs.common.cli import JobOptions, at_least, run_job
from pipeline.errors import UsageError
from pipeline.runtime.terminal import say


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `report`."""

    watch: bool = False
    """Serve the page on this machine while the run goes on, until Ctrl-C; then write it as report.html."""
    port: int = 8008
    """With --watch: port on the loopback address; 0 for a free one."""
    runs: tuple[str, ...] = ()
    """Compare two runs, by their folders' names under --root or by their paths, instead of showing the recipe's."""


def main(options: Options) -> None:
    """Writes report.html in the run's folder from what the other jobs left there, or serves it."""
    at_least(options, port=0)
    if options.runs and (len(options.runs) != 2 or options.watch):
        raise UsageError("--runs compares two runs: name two, as in --runs demo birds, and leave --watch out")
    recipe, paths = options.resolve()
    if options.runs:
        from pipeline.reports.comparison import compare_runs

        say(f"report: {compare_runs(paths.run.parent, (options.runs[0], options.runs[1]))}")
    elif options.watch:
        from pipeline.reports.watch import watch

        watch(recipe, paths, options.port)
    else:
        from pipeline.reports.run_report import write_report

        say(f"report: {write_report(recipe, paths)}")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
