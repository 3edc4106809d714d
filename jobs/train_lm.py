#!/usr/bin/env -S python -P
"""Trains the run's own small language expert on the captions and saves it as a Qwen2 checkpoint."""

import jobs  # noqa: F401  # isort: skip

from dataclasses import dataclass

from jobs.common.cli import JobOptions, run_job


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `train_lm`."""


def main(options: Options) -> None:
    recipe, paths = options.resolve()

    from pipeline.launch.language_expert import make_language_expert

    make_language_expert(recipe, paths)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
