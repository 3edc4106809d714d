"""The tokens of a run, checked against what its recipe would read them with."""

from jobs.common.recipe import Recipe
from jobs.common.run_paths import RunPaths
from pipeline.errors import InputError
from tokenization.image_tokenizer import image_tokenizer_sha256
from tokenization.text_tokenizer import load_text_tokenizer, text_vocabulary_sha256
from tokenization.token_table import Fingerprint, common_fingerprint, list_token_shards


def checked_fingerprint(recipe: Recipe, paths: RunPaths) -> Fingerprint:
    """The fingerprint of the run's tokens.

    Raises:
        InputError: there are none, they differ among themselves, or another VQ-GAN or vocabulary made them.
    """
    fingerprint = common_fingerprint(list_token_shards(paths.tokens))
    text_sha256 = text_vocabulary_sha256(load_text_tokenizer(recipe.text_tokenizer, paths.text))
    for name, have, want in (
        (f"VQ-GAN than {str(paths.vqgan)!r}", fingerprint.vq_sha256, image_tokenizer_sha256(paths.vqgan)),
        (f"text vocabulary than {recipe.text_tokenizer!r}", fingerprint.text_vocabulary_sha256, text_sha256),
    ):
        if have != want:
            raise InputError(
                f"tokens in {str(paths.tokens)!r} were made with another {name}; "
                "put that one back, or choose another --root and tokenize again"
            )
    return fingerprint
