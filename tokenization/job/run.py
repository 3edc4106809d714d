"""The tokenization job on Ray Data: read and decode on CPU workers, encode on an actor pool, write whole shards."""

from collections.abc import Callable

from ray.exceptions import RayError

from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.errors import InputError, OutageError
from tokenization.files.checks import unwritable
from tokenization.files.storage import open_storage
from tokenization.job.alarm import Alarm
from tokenization.job.books import Books
from tokenization.job.checks import check_output, keep_facts
from tokenization.job.encoder import Encoder, check_encoder
from tokenization.job.one_pass import Stages, Work, one_pass
from tokenization.job.progress import Progress
from tokenization.job.reader import Reader
from tokenization.job.rows import Tools
from tokenization.table.manifest import Manifest, record_settings, write_manifest
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint

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
        output: folder or prefix of a bucket for token shards at the same relative paths, and for their statistics.
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
    if stages is STAGES:
        keep_facts(config, tools, fingerprint)
    ignored = corpus.ignored
    storage.delete(MANIFEST_FILE)
    books = Books(storage, shards, seed, fingerprint.codebook_size)
    progress = Progress(len(shards), len(books.done), len(books.done))
    if len(books.done) < len(shards) and stages is STAGES:
        check_encoder(config, tools, workers)
    idle_passes, alarm = 0, Alarm(storage)
    work = Work(corpus, output, config, tools, workers, fingerprint, seed, stages)
    while pending := books.pending(shards):
        before, broken = books.num_ended, None
        try:
            for shard, ended in one_pass(work, pending, progress, report):
                progress.alarm = progress.alarm or alarm.ended(shard, ended)
                books.add(shard, ended)
        except RayError as error:
            _raise_cause(error, output)
            broken = error
        books.look_again(books.pending(pending))
        progress.shards_done = len(books.done)
        idle_passes = 0 if books.num_ended > before else idle_passes + 1
        if idle_passes == PASSES_WITHOUT_PROGRESS:
            message = f"{len(pending)} shards were begun {idle_passes} times, and none was finished"
            raise RuntimeError(f"{message}: {broken}" if broken else message) from broken
    books.store()
    return write_manifest(url, books.sums, books.failed, fingerprint, storage, ignored)


def _raise_cause(error: RayError, output: str) -> None:
    """Raises what ends the job at once, if that is the cause of a pass's end."""
    if isinstance(cause := getattr(error, "cause", error), OutageError):
        raise cause from error  # the workers have waited for it already
    if reason := unwritable(cause):
        raise InputError(f"tokens cannot be written to {output!r}: {reason}") from error
