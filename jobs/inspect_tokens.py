#!/usr/bin/env -S python -P
"""Describes a token dataset: statistics, and a sheet of random rows decoded back to pictures and captions."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass
from typing import Any

from jobs.common.cli import JobOptions, at_least, run_job
from pipeline.runtime.terminal import console, say


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `inspect_tokens`."""

    tokens: str = ""
    """Folder or s3://, gs:// or az:// place of the tokens (default: `tokens` in the run's folder)."""
    rows: int = 12
    """Random rows on the sheet; 0 for no sheet."""
    seed: int = 0
    """Seed of the choice of rows."""
    json: bool = False
    """Print the statistics as one JSON object, last."""


def main(options: Options) -> dict[str, Any]:
    """Prints the statistics, draws the sheet, and returns the statistics."""
    from pipeline.demo.corpora import attribution_of
    from pipeline.reports.token_report import TokenDataset, statistics_table, token_statistics, write_token_sheet

    recipe, paths = options.resolve()
    at_least(options, rows=0)
    tokens = TokenDataset(options.tokens or paths.tokens)
    figures = token_statistics(tokens)
    console.print(statistics_table(figures))
    if options.rows:
        footer = ("" if options.tokens else attribution_of(recipe.corpus)) or str(tokens.storage)
        sheet = write_token_sheet(recipe, paths, tokens, options.rows, options.seed, footer)
        say(f"inspect_tokens: random rows, decoded from their codes and ids, are in {sheet}")
    return figures


if __name__ == "__main__":
    run_job(Options, main, __doc__)
