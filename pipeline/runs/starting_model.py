"""Makes the starting model of a run from the language expert that its recipe names."""

from typing import Any

from pipeline.config.recipe import Recipe
from pipeline.config.vocabulary import JointVocabulary
from pipeline.errors import InputError, UsageError
from pipeline.runs.paths import RunPaths, language_expert_name
from pipeline.runtime.process_memory import MemoryGrowth
from pipeline.runtime.terminal import say
from pipeline.weights.hub import model_folder
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.weights.start_file import is_starting_model
from pipeline.weights.starting_model import StartOptions, make_starting_model
from tokenization.files.places import stored_place
from tokenization.text_tokenizer import check_fits, load_text_tokenizer
from tokenization.vqgan.image_tokenizer import ImageTokenizer


def init_model(recipe: Recipe, paths: RunPaths, codebook_size: int = 0) -> dict[str, Any]:
    """Makes the run's starting model, or its missing parts.

    Args:
        recipe, paths: recipe and paths of the run; the model is written to `paths.start`.
        codebook_size: codebook size of the VQ-GAN; 0 reads it from the recipe's VQ-GAN, which must then exist.

    Returns:
        Its path, hash and vocabulary, and two sizes in bytes: the growth of memory, and the largest file read.

    Raises:
        UsageError: the recipe names a starting model, or the codebook size is impossible.
        InputError: the language expert is missing, or does not fit the text tokenizer.
    """
    named = language_expert_name(paths)
    folder = model_folder(named)
    if is_starting_model(folder):
        raise UsageError(f"{named!r} is a starting model already; training loads it as it is")
    codebook_size = codebook_size or ImageTokenizer(paths.vqgan).codebook_size
    if codebook_size < 1:
        raise UsageError(f"--codebook-size is {codebook_size}, but must be at least 1")
    expert = open_language_expert(folder)
    vocabulary = JointVocabulary(expert.config.vocab_size, codebook_size)
    tokenizer = load_text_tokenizer(recipe.text_tokenizer, paths.text)
    check_fits(tokenizer, expert.config.vocab_size)
    num_ids = len(tokenizer)
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
    start_options = StartOptions(codebook_size, recipe.model_options, dtype=recipe.zero.dtype)
    stored = stored_place(named, paths.run)
    record = make_starting_model(expert, stored, start_options, paths.start, lambda line: say(f"init_model: {line}"))
    growth = memory.peak_bytes()
    largest = max((expert.tensors.folder / made.source).stat().st_size for made in record.files.values())
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
