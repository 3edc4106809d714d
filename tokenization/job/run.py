"""The tokenization job on Ray Data: read and decode on CPU workers, encode on an actor pool, write whole shards."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import READER_CPUS, Workers
from tokenization.corpora.corpus import Corpus
from tokenization.errors import InputError, OutageError
from tokenization.files.checks import check_apart, unwritable
from tokenization.files.storage import Storage, open_storage
from tokenization.job.alarm import Alarm
from tokenization.job.encoder import Encoder, check_encoder
from tokenization.job.reader import Reader
from tokenization.job.rows import Tools
from tokenization.job.writer import Writer, writer_of
from tokenization.table.manifest import (
    Manifest,
    ShardStatistics,
    check_settings,
    read_shard_statistics,
    record_settings,
    statistics_name,
    token_name,
    write_manifest,
)
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint
from tokenization.text_tokenizer import load_text_tokenizer, text_vocabulary_sha256
from tokenization.vqgan.image_tokenizer import (
    ImageTokenizer,
    check_codebook,
    check_pixel_range,
    image_tokenizer_sha256,
)

CHUNKS_AT_ONCE_ON_GPU = 4
ENCODERS_PER_WRITER = 8
PASSES_WITHOUT_PROGRESS = 3
"""After this many consecutive passes that finish no shard, the cluster counts as broken."""
STATISTICS_AT_ONCE = 32


@dataclass
class Progress:
    """Progress of a job. `shards_before` were done when it started; `rows` and `rejects` count this job alone. `alarm`
    is what is wrong with its first shards, if nearly nothing of them could be used."""

    shards: int
    shards_before: int
    shards_done: int
    shards_failed: int = 0
    rows: int = 0
    rejects: int = 0
    alarm: str = ""
    started: float = field(default_factory=time.monotonic)


def tokenize_corpus(
    corpus: Corpus,
    output: str,
    config: TokenizationConfig,
    tools: Tools,
    workers: Workers,
    report: Callable[[Progress], None],
    seed: int = 0,
    fingerprint: Fingerprint | None = None,
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

    Raises:
        InputError: see `check_output` and `check_encoder`.
    """
    shards, url, storage = corpus.shards, corpus.source.url, open_storage(output)
    if not fingerprint:
        fingerprint = check_output(corpus, output, config, tools)
        record_settings(storage, corpus.description(), fingerprint)
    ignored = corpus.ignored
    storage.delete(MANIFEST_FILE)
    statistics = finished_before(shards, storage, seed)
    progress = Progress(len(shards), len(statistics), len(statistics))
    if len(statistics) < len(shards):
        check_encoder(config, tools.vq_folder, workers)
    failed: dict[str, str] = {}
    idle_passes, alarm = 0, Alarm(storage)
    while pending := [shard for shard in shards if shard not in statistics and shard not in failed]:
        finished = _one_pass(corpus, pending, output, fingerprint, config, tools, workers, progress, report, seed)
        before, broken = len(statistics) + len(failed), None
        try:
            for shard, ended in finished:
                progress.alarm = progress.alarm or alarm.ended(shard, ended)
                if isinstance(ended, ShardStatistics):
                    statistics[shard] = ended
                else:
                    failed[shard] = ended
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", error), OutageError):
                raise cause from error  # the workers have waited for it already
            if reason := unwritable(cause):
                raise InputError(f"tokens cannot be written to {output!r}: {reason}") from error
            broken = error
        idle_passes = 0 if len(statistics) + len(failed) > before else idle_passes + 1
        if idle_passes == PASSES_WITHOUT_PROGRESS:
            message = f"{len(pending)} shards were begun {idle_passes} times, and none was finished"
            raise RuntimeError(f"{message}: {broken}" if broken else message) from broken
    in_order = (statistics[shard] for shard in sorted(statistics))
    return write_manifest(url, in_order, failed, fingerprint, storage, ignored)


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
    by_name: dict[str, str] = {}
    for shard in corpus.shards:
        if (other := by_name.setdefault(token_name(shard), shard)) != shard:
            raise InputError(f"shards {other!r} and {shard!r} would both become {token_name(shard)!r}; rename one")
    check_settings(open_storage(output), corpus.description(), fingerprint, folder)
    return fingerprint


def finished_before(shards: list[str], storage: Storage, seed: int) -> dict[str, ShardStatistics]:
    """Statistics of the shards that are done.

    Raises:
        InputError: one of them chose its captions among several with another seed.
    """
    there = set(storage.names())
    done = sorted(shard for shard in shards if {token_name(shard), statistics_name(shard)} <= there)
    with ThreadPool(STATISTICS_AT_ONCE) as pool:  # Ctrl-C does not wait for its threads, which may wait for S3
        statistics = dict(zip(done, pool.map(lambda shard: read_shard_statistics(storage, shard), done), strict=True))
    for shard, one in statistics.items():
        if one.caption_seed not in (None, seed):
            raise InputError(
                f"shard {shard!r} in {str(storage)!r} chose its captions among several with seed {one.caption_seed}, "
                f"not {seed}; set seed={one.caption_seed}, or choose another --output"
            )
    return statistics


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


def _one_pass(
    corpus: Corpus,
    shards: list[str],
    output: str,
    fingerprint: Fingerprint,
    config: TokenizationConfig,
    tools: Tools,
    workers: Workers,
    progress: Progress,
    report: Callable[[Progress], None],
    seed: int,
) -> Iterator[tuple[str, ShardStatistics | str]]:
    """Runs the pipeline over the shards and yields each one's statistics, or an error message.

    A shard whose writer died is missing.
    """
    num_writers = max(1, workers.num_encoders // ENCODERS_PER_WRITER)
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Writer)
    writers: list[Any] = [actor.remote(output, fingerprint) for _ in range(num_writers)]
    writing: dict[ray.ObjectRef, str] = {}
    seen: dict[str, set[int]] = {}
    chunks_of: dict[str, int] = {}
    ended: set[str] = set()
    for counts in _pipeline(corpus, shards, config, tools, workers, writers, seed).iter_rows():
        shard, index = counts["shard"], counts["index"]
        if shard in ended or index in seen.setdefault(shard, set()):
            continue  # a repeated chunk: an actor died after it had sent it
        seen[shard].add(index)
        progress.rows += counts["rows"]
        progress.rejects += counts["rejects"]
        writer = writers[writer_of(shard, num_writers)]
        if counts["last"]:
            chunks_of[shard] = index + 1
        if counts["error"]:
            writer.drop.remote(shard)
            progress.shards_failed += 1
            ended.add(shard)
            del seen[shard]
            yield shard, counts["error"]
        elif chunks_of.get(shard) == len(seen[shard]):
            writing[writer.finish.remote(shard, chunks_of[shard])] = shard
            ended.add(shard)
            del seen[shard], chunks_of[shard]
        if writing:
            written, _ = ray.wait(list(writing), num_returns=len(writing), timeout=0)
            yield from _all_statistics(written, writing, progress)
        report(progress)
    for reference in list(writing):
        yield from _all_statistics([reference], writing, progress)
        report(progress)


def _all_statistics(
    written: list[ray.ObjectRef], writing: dict[ray.ObjectRef, str], progress: Progress
) -> Iterator[tuple[str, ShardStatistics]]:
    for reference in written:
        statistics, shard = ray.get(reference), writing.pop(reference)
        if statistics is not None:  # otherwise its writer died: the next pass reads the shard again
            progress.shards_done += 1
            yield shard, statistics


def _pipeline(
    corpus: Corpus,
    shards: list[str],
    config: TokenizationConfig,
    tools: Tools,
    workers: Workers,
    writers: list[Any],
    seed: int,
) -> ray.data.Dataset:
    max_readers = workers.max_readers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    read = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map_batches(
        Reader,
        fn_constructor_args=(corpus, config, tools.text_source, tools.text_cache, seed),
        batch_size=1,
        num_cpus=READER_CPUS,
        resources=workers.reader_resources or None,
        compute=ActorPoolStrategy(min_size=1, max_size=max_readers),
    )
    return read.map_batches(
        Encoder,
        fn_constructor_args=(config, tools.vq_folder, workers, writers),
        batch_size=CHUNKS_AT_ONCE_ON_GPU if workers.use_gpu else 1,
        num_cpus=1 - READER_CPUS,
        num_gpus=1 if workers.use_gpu else 0,
        resources=workers.encoder_resources or None,
        compute=ActorPoolStrategy(size=workers.num_encoders),
    )
