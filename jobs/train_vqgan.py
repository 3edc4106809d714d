#!/usr/bin/env -S python -P
"""Trains a VQ-GAN on a corpus, measures it over all pictures, and writes it with a model card."""

import jobs  # noqa: F401  # isort: skip
from dataclasses import dataclass

from jobs.common.cli import JobOptions, run_job


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `train_vqgan`."""

    measure_only: bool = False
    """Measure the VQ-GAN in the run's vq/ again and rewrite its card, without training."""


def main(options: Options) -> None:
    """Trains from where the last attempt stopped, then measures."""
    recipe, paths = options.resolve()

    from pipeline.launch.vqgan import make_vqgan

    overrides = [word for override in options.set for word in ("--set", override)]
    command = ["jobs/train_vqgan.py", "--recipe", options.recipe, *overrides]
    make_vqgan(recipe, paths, command, options.measure_only)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
