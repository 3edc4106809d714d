"""The tokenization job on Ray Data: read and decode on CPU workers, encode on an actor pool, write whole shards."""

from collections.abc import Callable
from pathlib import Path

import torch
from ray.exceptions import RayError

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.errors import InputError, OutageError
from tokenization.files.checks import check_apart, unwritable
from tokenization.files.storage import open_storage
from tokenization.job.alarm import Alarm
from tokenization.job.books import Books
from tokenization.job.encoder import Encoder, check_encoder
from tokenization.job.one_pass import Stages, Work, one_pass
from tokenization.job.progress import Progress
from tokenization.job.reader import Reader
from tokenization.job.rows import Tools
from tokenization.table.manifest import Manifest, check_settings, record_settings, write_manifest
from tokenization.table.shard_statistics import name_hashes, token_name
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer, text_vocabulary_sha256
from tokenization.vqgan.image_tokenizer import (
    ImageTokenizer,
    check_codebook,
    check_pixel_range,
    image_tokenizer_sha256,
)

STAGES = Stages(Reader, Encoder)
PASSES_WITHOUT_PROGRESS = 3
"""After this many consecutive passes that finish no shard, the cluster counts as broken."""


def tokenize_corpus(
    corpus: Corpus,
    output: str,
    config: TokenizationConfig,
    tools: Tools,
    workers: Workers,
    report: Callable[[Progress], None],
    seed: int = 0,
    fingerprint: Fingerprint | None = None,
    stages: Stages = STAGES,
) -> Manifest:
    """Tokenizes the shards of a corpus that `output` does not have yet, and writes the manifest.

    Args:
        corpus: the corpus to tokenize.
        output: folder or `s3://bucket/prefix` for token shards at the same relative paths, and for their statistics.
        config: the settings that decide the tokens.
        tools: the two tokenizers.
        workers: the job's actors.
        report: called repeatedly with the progress.
        seed: decides which of several captions is chosen.
        fingerprint: of `check_output`, if it was called before, and `record_settings` after it.
        stages: a benchmark's own actors.

    Raises:
        InputError: see `check_output` and `check_encoder`.
    """
    shards, url, storage = corpus.shards, corpus.source.url, open_storage(output)
    if not fingerprint:
        fingerprint = check_output(corpus, output, config, tools)
        record_settings(storage, corpus.description(), fingerprint)
    ignored = corpus.ignored
    storage.delete(MANIFEST_FILE)
    books = Books(storage, shards, seed, fingerprint.codebook_size)
    progress = Progress(len(shards), len(books.done), len(books.done))
    if len(books.done) < len(shards) and stages is STAGES:
        check_encoder(config, tools.vq_folder, workers)
    idle_passes, alarm = 0, Alarm(storage)
    work = Work(corpus, output, config, tools, workers, fingerprint, seed, stages)
    while pending := books.pending(shards):
        before, broken = books.num_ended, None
        try:
            for shard, ended in one_pass(work, pending, progress, report):
                progress.alarm = progress.alarm or alarm.ended(shard, ended)
                books.add(shard, ended)
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", error), OutageError):
                raise cause from error  # the workers have waited for it already
            if reason := unwritable(cause):
                raise InputError(f"tokens cannot be written to {output!r}: {reason}") from error
            broken = error
        books.look_again(books.pending(pending))
        progress.shards_done = len(books.done)
        idle_passes = 0 if books.num_ended > before else idle_passes + 1
        if idle_passes == PASSES_WITHOUT_PROGRESS:
            message = f"{len(pending)} shards were begun {idle_passes} times, and none was finished"
            raise RuntimeError(f"{message}: {broken}" if broken else message) from broken
    books.store()
    return write_manifest(url, books.sums, books.failed, fingerprint, storage, ignored)


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
    vqgan = ImageTokenizer(tools.vq_folder)
    check_codebook(tools.vq_folder, vqgan)
    check_pixel_range(tools.vq_folder, vqgan)
    tokenizer = load_text_tokenizer(tools.text_source, tools.text_cache)
    for name, size_px in (("size_px", config.size_px), ("size_hr_px", config.size_hr_px)):
        if size_px % vqgan.factor or (name == "size_px" and size_px < vqgan.factor):
            raise InputError(f"{name} {size_px} is not a multiple of the VQ-GAN's factor {vqgan.factor}")
    if not isinstance(getattr(torch, config.encoder_dtype, None), torch.dtype):
        raise InputError(f"encoder_dtype {config.encoder_dtype!r} is unknown; set float32, bfloat16 or float16")
    high, at_once = config.size_hr_px, config.encode_batch_size_hr
    return Fingerprint(
        vq_sha256=image_tokenizer_sha256(tools.vq_folder),
        text_vocabulary_sha256=text_vocabulary_sha256(tokenizer),
        transform=config.transform.parameters(),
        encoder_dtype=config.encoder_dtype,
        encoder_batch_shape=[config.encode_batch_size, config.size_px, config.size_px, 3],
        codebook_size=vqgan.codebook_size,
        num_codes=(config.size_px // vqgan.factor) ** 2,
        max_caption_ids=config.max_caption_ids,
        caption_columns=config.caption_columns,
        encoder_batch_shape_hr=[at_once, high, high, 3] if high else None,
        num_codes_hr=(high // vqgan.factor) ** 2 if high else None,
        hr_where=config.hr_where if high else "",
        factor=vqgan.factor,
        pixel_range=list(vqgan.pixel_range),
    )
