#!/usr/bin/env -S python -P
"""Makes the model that training starts from, shard by shard, out of the recipe's language expert.

The language expert is the recipe's `language_expert_folder`: a folder of Qwen-7B (its own format), Qwen1.5, Qwen2,
Qwen2.5 or Qwen3, or the name of such a model on the Hugging Face hub. The starting model goes to `start` in the run's
folder, and in training each rank loads only its own part of it. An interrupted run resumes.
"""

import jobs  # noqa: F401  # isort: skip

from dataclasses import dataclass
from typing import Any

from jobs.common.cli import JobOptions, at_least, run_job


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `init_model`."""

    codebook_size: int = 0
    """Codebook size of the VQ-GAN (default: read from the recipe's VQ-GAN, which must then exist)."""
    json: bool = False
    """Print the result as one JSON object on the last line."""


def main(options: Options) -> dict[str, Any]:
    at_least(options, codebook_size=0)
    recipe, paths = options.resolve()

    from pipeline.runs.starting_model import init_model

    return init_model(recipe, paths, options.codebook_size)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
