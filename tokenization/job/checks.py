"""What is checked before a tokenization job starts an actor, and the fingerprint of its tokens.

torch and the vocabulary are loaded only if nothing is known yet of the VQ-GAN and the vocabulary.
"""

from pathlib import Path
from typing import Any

from tokenization.config.tokenization import TokenizationConfig
from tokenization.corpora.corpus import Corpus
from tokenization.errors import InputError
from tokenization.files.checks import check_apart
from tokenization.files.storage import open_storage
from tokenization.job.checked import keep, known, vocabulary_files_sha256, vqgan_files_sha256
from tokenization.job.rows import Tools
from tokenization.table.manifest import check_settings
from tokenization.table.shard_statistics import name_hashes, token_name
from tokenization.table.token_table import Fingerprint

FACTS = ("vq_sha256", "text_vocabulary_sha256", "codebook_size", "factor", "pixel_range")
"""Values of a fingerprint that follow from VQ-GAN and vocabulary alone."""


def check_output(
    corpus: Corpus, output: str, config: TokenizationConfig, tools: Tools, folder: Path | None = None
) -> Fingerprint:
    """Checks all that can be checked before an actor starts. Nothing is written. Returns the tokens' fingerprint.

    A corpus in `folder`, the run's, may move with it.

    Raises:
        InputError: VQ-GAN or vocabulary cannot be used, `output` holds tokens of another fingerprint or lies in the
            corpus, or two shards would become one.
    """
    fingerprint = make_fingerprint(config, tools)
    check_apart(corpus.source.url, output)
    check_names(corpus.shards)
    check_settings(open_storage(output), corpus.description(), fingerprint, folder)
    return fingerprint


def check_names(shards: list[str]) -> None:
    """Raises InputError if the token shards of two shards would have the same name."""
    hashes = name_hashes(map(token_name, shards))
    if (hashes[1:] != hashes[:-1]).all():
        return
    by_name: dict[str, str] = {}
    for shard in shards:
        if (other := by_name.setdefault(token_name(shard), shard)) != shard:
            raise InputError(f"shards {other!r} and {shard!r} would both become {token_name(shard)!r}; rename one")


def make_fingerprint(config: TokenizationConfig, tools: Tools) -> Fingerprint:
    """The fingerprint of tokens made with these tools and this config.

    Raises:
        InputError: a size is no multiple of the VQ-GAN's factor, or a dtype is unknown; or see `check_pixel_range`.
    """
    facts = known(tools.text_cache, _decided_by(config, tools)) or _facts(config, tools)
    factor, high, at_once = facts["factor"], config.size_hr_px, config.encode_batch_size_hr
    for name, size_px in (("size_px", config.size_px), ("size_hr_px", high)):
        if size_px % factor or (name == "size_px" and size_px < factor):
            raise InputError(f"{name} {size_px} is not a multiple of the VQ-GAN's factor {factor}")
    return Fingerprint(
        vq_sha256=facts["vq_sha256"],
        text_vocabulary_sha256=facts["text_vocabulary_sha256"],
        transform=config.transform.parameters(),
        encoder_dtype=config.encoder_dtype,
        encoder_batch_shape=[config.encode_batch_size, config.size_px, config.size_px, 3],
        codebook_size=facts["codebook_size"],
        num_codes=(config.size_px // factor) ** 2,
        max_caption_ids=config.max_caption_ids,
        caption_columns=config.caption_columns,
        encoder_batch_shape_hr=[at_once, high, high, 3] if high else None,
        num_codes_hr=(high // factor) ** 2 if high else None,
        hr_where=config.hr_where if high else "",
        factor=factor,
        pixel_range=facts["pixel_range"],
    )


def keep_facts(config: TokenizationConfig, tools: Tools, fingerprint: Fingerprint) -> None:
    """Keeps in the run's folder what the fingerprint says of the tools, so that the next job need not load them."""
    facts = {name: getattr(fingerprint, name) for name in FACTS}
    keep(tools.text_cache, _decided_by(config, tools), facts)


def _decided_by(config: TokenizationConfig, tools: Tools) -> list[str]:
    hashes = vqgan_files_sha256(tools.vq_folder), vocabulary_files_sha256(tools.text_source)
    return ["fingerprint", *hashes, config.encoder_dtype]


def _facts(config: TokenizationConfig, tools: Tools) -> dict[str, Any]:
    """What the fingerprint says of the tools themselves."""
    import torch

    from tokenization.text_tokenizer import load_text_tokenizer, text_vocabulary_sha256
    from tokenization.vqgan.image_tokenizer import (
        ImageTokenizer,
        check_codebook,
        check_pixel_range,
        image_tokenizer_sha256,
    )

    vqgan = ImageTokenizer(tools.vq_folder)
    check_codebook(tools.vq_folder, vqgan)
    check_pixel_range(tools.vq_folder, vqgan)
    tokenizer = load_text_tokenizer(tools.text_source, tools.text_cache)
    if not isinstance(getattr(torch, config.encoder_dtype, None), torch.dtype):
        raise InputError(f"encoder_dtype {config.encoder_dtype!r} is unknown; set float32, bfloat16 or float16")
    return {
        "vq_sha256": image_tokenizer_sha256(tools.vq_folder),
        "text_vocabulary_sha256": text_vocabulary_sha256(tokenizer),
        "codebook_size": vqgan.codebook_size,
        "factor": vqgan.factor,
        "pixel_range": list(vqgan.pixel_range),
    }
