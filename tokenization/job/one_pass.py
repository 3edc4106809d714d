"""One pass of the tokenization job over shards: a Ray Data pipeline of readers and encoders, and actors that write.

The driver's work per picture is what ends the job's scaling. Pictures and codes never reach it, and it reads nothing of
what the pipeline yields: it asks the writers from time to time which shards have ended.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import READER_CPUS, Workers
from tokenization.corpora.corpus import Corpus
from tokenization.job.balance import Balance
from tokenization.job.progress import Progress
from tokenization.job.rows import Tools
from tokenization.job.writer import Writer
from tokenization.table.shard_statistics import ShardStatistics
from tokenization.table.token_table import Fingerprint

ENCODERS_PER_WRITER = 8
ASK_EVERY_S = 1.0
"""Seconds between two questions to the writers for what has come."""
BLOCK_BYTES, BLOCKS_IN_STORE = 256 << 20, 32
"""Largest size of the blocks in which readers pass chunks on, and how many must fit into the object stores. The driver
has work with each block: smaller ones would make it busier."""
LEAST_BLOCK_BYTES, BLOCKS_OF_CORPUS = 1 << 20, 4096
"""Smallest size of the blocks, and how many a corpus of more bytes has. Encoders of a small corpus need not wait until
a reader has decoded hundreds of pictures."""
FOLDER_SHARD_BYTES = 64 << 20
"""Assumed size of a shard that is a part of a folder of pictures."""
SIZES_LOOKED_AT = 64
"""Up to so many shards' sizes give the size of the corpus."""
PART_READERS = 16
"""Maximum number of actors that decode parts of one large shard. The reader of the shard feeds about as many."""
SINGLE_SHARDS, SHARDS_A_TASK, SHARES = 4096, 256, 512
"""Up to so many shards are a task each; a task has at most so many, and at most this share of those that are left."""


@dataclass(frozen=True)
class Stages:
    """The actors of both stages, with the CPUs that each requests. A benchmark has its own.

    Attributes:
        reader, encoder: their classes; see `Reader` and `EncodingStage`.
        reader_cpus, encoder_cpus: Ray's CPUs.
        block_bytes: size of the blocks in which readers pass chunks on; 0 for `BLOCK_BYTES`, or less in small stores.
        all_encoders_first: readers wait for all encoders, and not for the first.
    """

    reader: Any
    encoder: Any
    reader_cpus: float = READER_CPUS
    encoder_cpus: float = 1 - READER_CPUS
    block_bytes: int = 0
    all_encoders_first: bool = False


@dataclass(frozen=True)
class Work:
    """What a job does with the shards of its passes; for the attributes see `tokenize_corpus`."""

    corpus: Corpus
    output: str
    config: TokenizationConfig
    tools: Tools
    workers: Workers
    fingerprint: Fingerprint
    seed: int
    stages: Stages


def one_pass(
    work: Work, shards: list[str], progress: Progress, report: Callable[[Progress], None]
) -> Iterator[tuple[str, ShardStatistics | str]]:
    """Runs the pipeline over the shards and yields each one's statistics, or an error message.

    A shard whose writer died is missing.
    """
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Writer)
    count = num_writers(work.workers.num_encoders)
    writers: list[Any] = [actor.remote(work.output, work.fingerprint) for _ in range(count)]
    balance = Balance(max_readers_of(work.workers), work.workers.num_encoders)
    due = 0.0
    for _ in _pipeline(work, shards, writers).iter_internal_ref_bundles():
        if time.monotonic() >= due:
            yield from _news(writers, progress, balance)
            progress.balance = progress.balance or balance.verdict()
            report(progress)
            due = time.monotonic() + ASK_EVERY_S
    yield from _news(writers, progress, balance)
    report(progress)


def _news(writers: list[Any], progress: Progress, balance: Balance) -> Iterator[tuple[str, ShardStatistics | str]]:
    """Asks the writers for what has come, and yields the shards that have ended."""
    for news in ray.get([writer.news.remote() for writer in writers]):
        progress.rows += news.rows
        progress.rejects += news.rejects
        balance.add(news)
        for shard, how in news.ended:
            if isinstance(how, str):
                progress.shards_failed += 1
            else:
                progress.shards_done += 1
            yield shard, how


def max_readers_of(workers: Workers) -> int:
    """The maximum number of readers on the connected cluster."""
    return workers.max_readers or max(1, int(ray.cluster_resources().get("CPU", 1)))


def num_writers(num_encoders: int) -> int:
    """The number of writers for so many encoders."""
    return -(-num_encoders // ENCODERS_PER_WRITER)


def tasks_of(shards: list[str], max_readers: int) -> list[list[str]]:
    """The shards of each task of a reader: one, as long as they are few. A task takes the driver a millisecond, so that
    of many shards the first tasks have many, and the last ones a single one: no reader ends late."""
    if len(shards) <= SINGLE_SHARDS:
        return [[shard] for shard in shards]
    tasks, place = list[list[str]](), 0
    while place < len(shards):
        count = max(1, min(SHARDS_A_TASK, (len(shards) - place) // max(max_readers, SHARES)))
        tasks.append(shards[place : place + count])
        place += count
    return tasks


def block_bytes_of(corpus: Corpus, shards: list[str], store_bytes: int) -> int:
    """The size of the blocks in which readers pass on the chunks of these shards, for an object store of a size."""
    looked_at = shards[:: -(-len(shards) // SIZES_LOOKED_AT)]
    mean = sum(corpus.size(shard) or FOLDER_SHARD_BYTES for shard in looked_at) / len(looked_at)
    share = int(mean * len(shards)) // BLOCKS_OF_CORPUS
    return min(max(share, LEAST_BLOCK_BYTES), BLOCK_BYTES, store_bytes // BLOCKS_IN_STORE)


def _pipeline(work: Work, shards: list[str], writers: list[Any]) -> ray.data.Dataset:
    workers, tools, stages = work.workers, work.tools, work.stages
    max_readers = max_readers_of(workers)
    store_bytes = int(ray.cluster_resources().get("object_store_memory", 0))
    size = stages.block_bytes or block_bytes_of(work.corpus, shards, store_bytes)
    ray.data.DataContext.get_current().target_max_block_size = size
    tasks = [{"shards": names} for names in tasks_of(shards, max_readers)]
    read = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        stages.reader,
        fn_constructor_args=(
            work.corpus,
            work.output,
            work.config,
            tools,
            workers,
            min(PART_READERS, max_readers - 1),
            work.seed,
        ),
        batch_size=None,
        num_cpus=stages.reader_cpus,
        resources=workers.reader_resources or None,
        label_selector=workers.reader_label_selector or None,
        compute=ActorPoolStrategy(min_size=1, max_size=max_readers),
    )
    return read.map_batches(
        stages.encoder,
        fn_constructor_args=(work.config, tools.vq_folder, workers, writers),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=stages.encoder_cpus,
        num_gpus=1 if workers.use_gpu else 0,
        resources=workers.encoder_resources or None,
        label_selector=workers.encoder_label_selector or None,
        # On CPUs the first encoder would share the cores with the start of the others, and all would be late.
        compute=ActorPoolStrategy(
            min_size=workers.num_encoders if workers.use_gpu or stages.all_encoders_first else 1,
            max_size=workers.num_encoders,
        ),
    )
