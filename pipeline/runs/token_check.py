"""Checks the tokens of a run against its recipe."""

from dataclasses import replace

from pipeline.config.recipe import Recipe
from pipeline.config.stage import StageConfig
from pipeline.errors import InputError
from pipeline.runs.paths import RunPaths
from tokenization.table.token_table import Fingerprint, common_fingerprint, list_token_shards
from tokenization.text_tokenizer import load_text_tokenizer, text_vocabulary_sha256
from tokenization.vqgan.image_tokenizer import image_tokenizer_sha256


def checked_fingerprint(recipe: Recipe, paths: RunPaths, corpus: str = "") -> Fingerprint:
    """Returns the fingerprint of the tokens of one of the recipe's corpora; by default, the first.

    Raises:
        InputError: there are no tokens, their fingerprints differ, or another VQ-GAN or vocabulary made them.
    """
    tokens = paths.tokens_of(corpus or recipe.first_corpus)
    fingerprint = common_fingerprint(list_token_shards(tokens))
    check_made_with(recipe, paths, fingerprint, tokens)
    return fingerprint


def check_made_with(recipe: Recipe, paths: RunPaths, fingerprint: Fingerprint, tokens: str) -> None:
    """Raises InputError if `tokens` (with that fingerprint) were made by another VQ-GAN or vocabulary."""
    text_sha256 = text_vocabulary_sha256(load_text_tokenizer(recipe.text_tokenizer, paths.text))
    for name, have, want in (
        (f"VQ-GAN than {str(paths.vqgan)!r}", fingerprint.vq_sha256, image_tokenizer_sha256(paths.vqgan)),
        (f"text vocabulary than {recipe.text_tokenizer!r}", fingerprint.text_vocabulary_sha256, text_sha256),
    ):
        if have != want:
            raise InputError(
                f"tokens in {tokens!r} were made with another {name}; "
                "put that one back, or choose another --root and tokenize again"
            )


def stage_fingerprint(recipe: Recipe, paths: RunPaths, stage: StageConfig) -> Fingerprint:
    """Returns the fingerprint of the first source, with the longest captions of all sources.

    Raises:
        InputError: the tokens of a source cannot be used, or two sources have different picture sizes.
    """
    of_source = {name: checked_fingerprint(recipe, paths, name) for name in stage.sources}
    (first, common), *others = of_source.items()
    for name, other in others:
        for key in ("num_codes", "encoder_dtype", "codebook_size"):
            if (have := getattr(other, key)) != (want := getattr(common, key)):
                raise InputError(
                    f"tokens of the corpora {first!r} and {name!r} differ in {key}, {want} and {have}; "
                    "tokenize them alike"
                )
    return replace(common, max_caption_ids=max(each.max_caption_ids for each in of_source.values()))
