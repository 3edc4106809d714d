"""Tokenizes a run's corpora, each into its own folder with its own attempt in the ledger."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module

from ray.actor import ActorProxy
from ray.util.metrics import Gauge

from pipeline.config.recipe import Recipe
from pipeline.demo.corpora import make_corpus
from pipeline.errors import FailedShardsError, InputError, UsageError
from pipeline.ledger.account import Counts
from pipeline.ledger.actor import LedgerActor
from pipeline.runs.attempt import connect_run, ledger_attempt
from pipeline.runs.paths import RunPaths
from pipeline.runtime.ray_connection import check_gpus, starts_ray_here
from pipeline.runtime.shortage import check_obtainable
from pipeline.runtime.terminal import say, say_error
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.leftovers import PICTURE, UNREAD
from tokenization.files.local_folder import LocalFolder
from tokenization.files.storage import open_storage
from tokenization.job.checks import check_output
from tokenization.job.chosen import check_query
from tokenization.job.progress import Progress
from tokenization.job.rows import Tools
from tokenization.table.manifest import Manifest, record_settings
from tokenization.table.queries import non_number_messages

SAY_EVERY_S = 10.0
COUNT_EVERY_S = 1.0
"""Seconds between two messages to the ledger."""
NAMES_SHOWN = 5
"""How many files that are not read are named."""


def tokenize_corpora(recipe: Recipe, paths: RunPaths, names: list[str]) -> dict[str, Manifest]:
    """Tokenizes the untokenized shards of the named corpora of the recipe, in this order.

    Returns:
        The manifest of each corpus. `check_shards` raises if some of its shards failed.

    Raises:
        InputError: a corpus, the VQ-GAN or the vocabulary cannot be used.
    """
    check_query(recipe.tokenization.hr_where)
    return {name: _tokenize(name, recipe, paths) for name in names}


def check_shards(manifests: dict[str, Manifest]) -> None:
    """Logs a line for each failed shard.

    Raises:
        FailedShardsError: at least one shard failed.
        InputError: no sample of a corpus could be used.
    """
    failed = [message for manifest in manifests.values() for message in manifest.failed_shards.values()]
    for message in failed:
        say_error(f"failed: {message}")
    if failed:
        raise FailedShardsError(f"{len(failed)} shards could not be read; repair them and run the job again")
    for manifest in manifests.values():
        if not manifest.rows_out:
            raise InputError(
                f"corpus {manifest.corpus!r}: none of its {manifest.rows_in} samples can be used: "
                f"{_counts(manifest.rejects_by_reason) or 'its shards are empty'}; rejects/ beside the tokens "
                "has a line for each"
            )


def _tokenize(name: str, recipe: Recipe, paths: RunPaths) -> Manifest:
    began = time.monotonic()
    if not recipe.corpora[name].path:
        make_corpus(name, recipe, paths)
    corpus, workers, config = Corpus(paths.source_of(name)), recipe.tokenizers, recipe.tokenization
    check_columns(corpus, config)
    if not recipe.corpora[name].high_resolution:
        config = replace(config, size_hr_px=0)
    output = paths.tokens_of(name)
    check_resources(workers)  # what cannot work is refused before Ray starts
    check_gpus(workers.use_gpu)
    say(f"tokenize: {len(corpus.shards)} shards of layout {corpus.layout} in {corpus.source.url}")
    tools = Tools(paths.vqgan, paths.text_source, paths.text)
    fingerprint = check_output(corpus, output, config, tools, paths.run)
    if links := said_of_links(corpus):
        say_error(links)
    _say_ignored(corpus)
    say("tokenize: connecting to Ray, which is started if there is none")
    with ThreadPoolExecutor(1, "imports") as thread:
        thread.submit(import_module, "tokenization.job.run")  # Ray Data takes as long as all of Ray before it
        connect_run(paths, workers.use_gpu)
    from tokenization.job.run import tokenize_corpus

    remedy = "change tokenizers.use_gpu, the actors' label selectors or their resources"
    check_obtainable([workers.reader_needs, workers.encoder_needs], remedy)
    with ledger_attempt(paths, "tokenize", workers.use_gpu) as ledger:
        record_settings(open_storage(output), corpus.description(), fingerprint, paths.run)
        report = ProgressReporter(ledger, began)
        say(f"tokenize: starting {workers.num_encoders} encoders, and readers as CPUs are free")
        manifest = tokenize_corpus(corpus, output, config, tools, workers, report, recipe.seed, fingerprint)
        report.count()
    high = f", {manifest.rows_hr} of them at {config.size_hr_px} px, too" if manifest.rows_hr else ""
    say(
        f"tokenize: {manifest.rows_out} rows{high} in {manifest.shards} shards under {output}; "
        f"{manifest.rows_rejected} rejected {manifest.rejects_by_reason or ''}"
    )
    if manifest.ignored:
        say(f"tokenize: ignored {_counts(manifest.ignored)}")
    for message in non_number_messages(manifest.not_numbers, "hr_where"):
        say_error(message)
    if config.size_hr_px and not manifest.rows_hr:
        say_error(f"no row has the high resolution: hr_where {config.hr_where!r} matches none")
    return manifest


def check_columns(corpus: Corpus, config: TokenizationConfig) -> None:
    """Checks the names of columns against the layout, which may have been detected.

    Raises:
        UsageError: the layout has no column of pictures but one is named, or it has captions but no column is named.
    """
    if corpus.source.image_column and corpus.layout != "parquet":
        raise UsageError(
            f"image_column is {corpus.source.image_column!r}, but corpus {corpus.source.url!r} has layout "
            f"{corpus.layout}; leave it out, only parquet has such a column"
        )
    if not config.caption_columns and corpus.layout != "documents":
        raise UsageError(
            f"no caption column is named for corpus {corpus.source.url!r}; set tokenization.caption_columns, as with "
            "--captions en=caption"
        )


def check_resources(workers: Workers) -> None:
    """Checks that a Ray which this job starts would have what its actors ask for; a cluster may grow.

    Raises:
        UsageError: an actor asks for a custom resource.
    """
    asked = [*workers.reader_resources, *workers.encoder_resources]
    if asked and starts_ray_here():
        raise UsageError(
            f"tokenizers ask for the resource {asked[0]!r}, which a Ray started on this machine does not have; join a "
            "cluster that has it with RAY_ADDRESS, or leave it out"
        )


def said_of_links(corpus: Corpus) -> str:
    """A message if files of the corpus are links out of its folder, which are read; else empty. The cache of Hugging
    Face's hub has nothing else."""
    links = corpus.storage.links_out() if isinstance(corpus.storage, LocalFolder) else {}
    if not links:
        return ""
    (name, target), *_ = links.items()
    return f"{len(links)} links lead out of {corpus.source.url!r} and are followed, as {name!r} to {target!r}"


def _say_ignored(corpus: Corpus) -> None:
    """Names archives and tables that lie beside the shards: they may have been meant."""
    for name in corpus.ignored.get(UNREAD, [])[:NAMES_SHOWN]:
        say_error(f"{name!r} is not read: it is not a shard of layout {corpus.layout}")
    if (more := len(corpus.ignored.get(UNREAD, [])) - NAMES_SHOWN) > 0:
        say_error(f"{more} more such files are not read")
    if corpus.layout == "webdataset" and (pictures := len(corpus.ignored.get(PICTURE, []))):
        say_error(
            f"{pictures} pictures lie beside the shards and are not read; --layout files or imagefolder reads them"
        )


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in by_reason.items())


class ProgressReporter:
    """Reports progress: a log line every ten seconds, Ray metrics, and the ledger, whose steps are shards.

    The first line comes with the first pictures, and says how long after `began`, of `time.monotonic`, they came.
    """

    def __init__(self, ledger: ActorProxy[LedgerActor], began: float) -> None:
        self._began, self._has_pictures = began, False
        self._next, self._next_count, self._ledger, self._alarm, self._balance = 0.0, 0.0, ledger, "", ""
        self._counted, self._so_far = Counts(), Counts()
        self._gauges = {
            name: Gauge(f"mars_tokenize_{name}", description)
            for name, description in (
                ("pictures_per_s", "Pictures encoded a second, since the job started"),
                ("share_done", "Shards done or failed, as a share of all"),
                ("rejects", "Samples rejected since the job started"),
                ("seconds_left", "Estimated time to the end, s"),
            )
        }

    def __call__(self, progress: Progress) -> None:
        """Counts the work in the ledger and logs a line, both if they are due."""
        now = time.monotonic()
        if progress.alarm != self._alarm:
            self._alarm = progress.alarm
            say_error(f"tokenize: {progress.alarm}")
        if progress.balance != self._balance:
            self._balance = progress.balance
            say(f"tokenize: {progress.balance}")
        self._so_far = Counts(steps=progress.shards_done - progress.shards_before, samples=progress.rows)
        if now >= self._next_count:
            self._next_count = now + COUNT_EVERY_S
            self.count()
        ended = progress.shards_done + progress.shards_failed
        if progress.rows and not self._has_pictures:
            self._has_pictures = True
            say(f"tokenize: the first pictures are tokenized, after {now - self._began:.1f} s")
        if now < self._next and ended < progress.shards:
            return
        self._next = now + SAY_EVERY_S
        seconds = max(now - progress.started, 1e-9)
        rate, here = progress.rows / seconds, ended - progress.shards_before
        left = seconds / here * (progress.shards - ended) if here else float("nan")
        share = ended / progress.shards
        values = {"pictures_per_s": rate, "share_done": share, "rejects": progress.rejects, "seconds_left": left}
        for name, value in values.items():
            self._gauges[name].set(value)
        when = f"about {_duration(left)} left" if here else "time left not known yet"
        say(
            f"tokenize: {ended} of {progress.shards} shards ({share:.0%}), {progress.rows} pictures, {rate:.0f} "
            "pictures/s, "
            f"{progress.rejects} rejected, {when if ended < progress.shards else 'writing done'}"
        )

    def count(self) -> None:
        """Counts in the ledger what has been done since the last time."""
        if (so_far := self._so_far) != self._counted:
            new = Counts(steps=so_far.steps - self._counted.steps, samples=so_far.samples - self._counted.samples)
            self._ledger.working.remote()
            self._ledger.add.remote(new)
            self._counted = so_far


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
