#!/usr/bin/env -S python -P
"""Makes the model that training starts from, shard by shard, out of the recipe's language expert.

The language expert is the recipe's `language_expert_folder`: a folder of Qwen-7B (its own format), Qwen1.5, Qwen2 or
Qwen2.5, or the name of such a model on the Hugging Face hub. The starting model goes to `start` in the run's folder,
and training loads it from there, each rank only its own part. An interrupted run goes on where it was.
"""

import jobs  # noqa: F401  # isort: skip

from dataclasses import dataclass
from typing import Any

from jobs.common.cli import JobOptions, run_job
from pipeline.config.vocabulary import JointVocabulary
from pipeline.errors import InputError, UsageError
from pipeline.runs.paths import language_expert_name
from pipeline.runtime.process_memory import MemoryGrowth
from pipeline.runtime.terminal import say
from pipeline.weights.hub import model_folder
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.weights.start_file import is_starting_model
from pipeline.weights.starting_model import StartOptions, make_starting_model
from tokenization.text_tokenizer import load_text_tokenizer
from tokenization.vqgan.image_tokenizer import ImageTokenizer


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `init_model`."""

    codebook_size: int = 0
    """Codes of the VQ-GAN (default: asked of the recipe's VQ-GAN, which must then be there)."""
    json: bool = False
    """The result as one JSON object on the last line."""


def main(options: Options) -> dict[str, Any]:
    """Makes it, or what of it is missing."""
    recipe, paths = options.resolve()
    named = language_expert_name(paths)
    folder = model_folder(named)
    if is_starting_model(folder):
        raise UsageError(f"{named!r} is a starting model already; training loads it as it is")
    codebook_size = options.codebook_size or ImageTokenizer(paths.vqgan).codebook_size
    if codebook_size < 1:
        raise UsageError(f"--codebook-size is {codebook_size}, it must be at least 1")
    expert = open_language_expert(folder)
    vocabulary = JointVocabulary(expert.config.vocab_size, codebook_size)
    num_ids = len(load_text_tokenizer(recipe.text_tokenizer, paths.text))
    if num_ids > expert.config.vocab_size:
        raise InputError(
            f"text tokenizer {recipe.text_tokenizer!r} has {num_ids} ids, the language expert {named!r} "
            f"{expert.config.vocab_size} rows; set text_tokenizer to the language expert's own"
        )
    say(
        f"init_model: {named} ({expert.format}): {expert.config.num_hidden_layers} layers of "
        f"{expert.config.hidden_size}, {expert.config.vocab_size:,} text rows, {vocabulary.num_visual:,} visual ones, "
        f"in all {vocabulary.size:,}; up to {expert.config.max_position_embeddings:,} positions"
    )
    memory = MemoryGrowth()
    start_options = StartOptions(codebook_size, **recipe.model_options(), dtype=recipe.zero.dtype)
    record = make_starting_model(expert, named, start_options, paths.start, lambda line: say(f"init_model: {line}"))
    growth = memory.peak_bytes()
    largest = max((folder / made.source).stat().st_size for made in record.files.values())
    size = sum(made.size for made in record.files.values())
    say(
        f"init_model: {size / 1e9:.2f} GB are in {paths.start}; memory grew by {growth / 1e9:.2f} GB, "
        f"the largest shard read has {largest / 1e9:.2f} GB"
    )
    return {
        "start": str(paths.start),
        "base_sha256": record.base_sha256,
        "vocab_size": vocabulary.size,
        "memory_growth_bytes": growth,
        "largest_shard_bytes": largest,
    }


if __name__ == "__main__":
    run_job(Options, main, __doc__)
