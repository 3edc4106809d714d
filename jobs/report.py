#!/usr/bin/env -S python -P
"""Writes report.html of a run: one file with loss curves, pictures, scores, the ledger, and the versions."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass

from jobs.common.cli import JobOptions, run_job
from pipeline.runtime.terminal import say


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `report`."""


def main(options: Options) -> None:
    """Writes the report from the other jobs' results in the run's folder."""
    from pipeline.reports.run_report import write_report

    say(f"report: {write_report(*options.resolve())}")


if __name__ == "__main__":
    run_job(Options, main, __doc__)
