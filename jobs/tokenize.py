#!/usr/bin/env -S python -P
"""Tokenizes an image-text corpus into token shards: VQ codes and Qwen ids, once, offline."""

import jobs  # noqa: F401  # isort: skip
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from ray.util.metrics import Gauge

from cluster.cluster_file import ClusterFile, read_cluster_file
from cluster.nodes import Demand
from jobs.common.cli import JobOptions, run_job
from jobs.common.exit_codes import FailedShards
from jobs.common.recipes import load_recipe
from pipeline.config.recipe import Recipe
from pipeline.demo.corpora import make_corpus
from pipeline.errors import UsageError
from pipeline.reports.asked_nodes import say_nodes
from pipeline.reports.dry_run import plan_console
from pipeline.runs.attempt import ledger_attempt
from pipeline.runs.paths import RunPaths, in_package_cache
from pipeline.runtime.terminal import say, say_error
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.job.rows import Tools, check_query
from tokenization.job.run import Progress, tokenize_corpus
from tokenization.table.manifest import Manifest

SAY_EVERY_S = 10.0
USUAL = TokenizationConfig()
CAPTIONS = " ".join(f"{language}={column}" for column, language in USUAL.caption_columns.items())


def _default(what: object) -> Any:
    """Says in --help what an empty flag stands for."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")


def _recipes(usual: object) -> Any:
    """Says in --help that the recipe decides, and what it usually says."""
    return _default(f"the recipe's; usually {usual}")


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `tokenize`. Zero or empty leaves a value to the recipe; `--set` reaches all others."""

    corpus: Annotated[str, _recipes("the demo's drawings")] = ""
    """Folder or s3://bucket/prefix to tokenize instead of the recipe's first corpus, and nothing else."""
    output: Annotated[str, _default("`tokens` in the run's folder")] = ""
    """Folder or s3://bucket/prefix for the tokens."""
    layout: Annotated[Literal["", "webdataset", "parquet", "documents", "imagefolder"], _default("by its files")] = ""
    """How the corpus is laid out: tar shards, parquet shards, JSONL of interleaved documents, or a folder with
    metadata.jsonl or metadata.csv."""
    image_column: Annotated[str, _default("the only such column, or one of the usual names")] = ""
    """Of parquet: the column of the pictures' bytes."""
    captions: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="LANGUAGE=COLUMN", help_behavior_hint=f"(default: the recipe's; usually {CAPTIONS})"),
    ] = ()
    """Caption columns and their languages, as in --captions en=caption zh=caption_zh."""
    max_caption_ids: Annotated[int, _recipes(USUAL.max_caption_ids)] = 0
    """Text ids of a caption, at most; longer ones are cut and marked."""
    resolution: Annotated[int, _recipes(USUAL.size_px)] = 0
    """Side of the square that is encoded, px; a multiple of the VQ-GAN's factor."""
    hr_resolution: Annotated[int, _recipes("none")] = 0
    """Side at which the same crop is encoded once more, px; a multiple of the factor."""
    hr_where: Annotated[str, _recipes("all")] = ""
    """Which pictures get the high resolution, as a pandas query over a row of the corpus: --hr-where 'score >= 6'."""
    encode_batch_size: Annotated[int, _recipes(USUAL.encode_batch_size)] = 0
    """Pictures that are encoded at once."""
    encoders: Annotated[int, _recipes(1)] = 0
    """Encoding actors: one GPU each where the recipe uses GPUs, else one CPU."""
    readers: Annotated[int, _recipes("as many as the cluster has CPUs")] = 0
    """Reading and decoding actors, at most."""
    max_bytes: Annotated[int, _recipes(USUAL.limits.max_bytes)] = 0
    """Larger picture files are rejected, bytes."""
    max_pixels: Annotated[int, _recipes(USUAL.limits.max_pixels)] = 0
    """Pictures of more pixels are rejected, px."""
    max_side: Annotated[int, _recipes(USUAL.limits.max_side_px)] = 0
    """Pictures whose longer side is longer are rejected, px."""
    min_side: Annotated[int, _recipes(USUAL.limits.min_side_px)] = 0
    """Pictures whose shorter side is shorter are rejected, px."""
    max_aspect_ratio: Annotated[float, _recipes(USUAL.limits.max_aspect_ratio)] = 0.0
    """Pictures with more of longer side over shorter side are rejected."""
    json: bool = False
    """Print the manifest as one JSON object, last; of a dry run, the nodes."""
    dry_run: bool = False
    """Tokenize nothing: say which actors the job will start, and with --cluster which nodes those ask for."""
    cluster: str = ""
    """With --dry-run: cluster file, as in cluster/aws_a100.yaml. Exit code 2 where it can never give the nodes."""

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with what the flags say.

        Raises:
            UsageError: a number is negative, or captions are not LANGUAGE=COLUMN.
        """
        for name, value in asdict(self).items():
            if isinstance(value, (int, float)) and value < 0:
                raise UsageError(f"--{name.replace('_', '-')} is {value}, it must be positive")
        columns = {}
        for pair in self.captions:
            language, separator, column = pair.partition("=")
            if not (language and separator and column):
                raise UsageError(f"--captions {pair!r}: write LANGUAGE=COLUMN, as in en=caption")
            columns[column] = language
        given: dict[str, Any] = {"max_bytes": self.max_bytes, "max_pixels": self.max_pixels}
        given |= {"max_side_px": self.max_side, "min_side_px": self.min_side}
        limits = _given(max_aspect_ratio=self.max_aspect_ratio, **given)
        tokenization = recipe.tokenization
        tokens = _given(
            size_px=self.resolution,
            size_hr_px=self.hr_resolution,
            hr_where=self.hr_where,
            caption_columns=columns,
            max_caption_ids=self.max_caption_ids,
            encode_batch_size=self.encode_batch_size,
        )
        reading: dict[str, Any] = {"layout": self.layout, "image_column": self.image_column}
        path = self.corpus if not self.corpus or "://" in self.corpus else str(Path(self.corpus).absolute())
        return replace(
            recipe,
            corpora=recipe.corpora | {recipe.first_corpus: replace(recipe.corpus, **_given(path=path, **reading))},
            tokenization=replace(tokenization, limits=replace(tokenization.limits, **limits), **tokens),
            tokenizers=replace(recipe.tokenizers, **_given(num_encoders=self.encoders, max_readers=self.readers)),
        )


def main(options: Options) -> dict:
    """Tokenizes what is not tokenized yet; makes the corpora that are to be made where they are missing."""
    if options.cluster and not options.dry_run:
        raise UsageError("--cluster is of a dry run; add --dry-run, or leave it out to tokenize")
    if options.dry_run:
        recipe = options.applied(load_recipe(options.recipe, options.set))
        return plan_actors(
            recipe.tokenizers, read_cluster_file(options.cluster) if options.cluster else None, options.json
        )
    recipe, paths = options.resolve()
    recipe = options.applied(recipe)
    paths = replace(paths, recipe=recipe)
    check_query(recipe.tokenization.hr_where)
    names = list(recipe.corpora)
    if options.corpus or options.output or options.layout or options.image_column:
        names = [recipe.first_corpus]  # what the flags say is of one
    failed: dict[str, str] = {}
    manifests = {}
    for name in names:
        manifests[name] = tokenize_one(name, options.output, recipe, paths)
        failed |= manifests[name].failed_shards
    books = asdict(manifests[names[0]]) | {
        "further_corpora": {name: asdict(manifests[name]) for name in names if name != names[0]}
    }
    if failed:
        for message in failed.values():
            say_error(f"failed: {message}")
        if options.json:
            print(json.dumps(books, ensure_ascii=False))
        raise FailedShards(f"{len(failed)} shards could not be read; mend them and run the job again")
    return books


def plan_actors(workers: Workers, cluster: ClusterFile | None, as_json: bool) -> dict[str, Any]:
    """Says which actors tokenization starts, and the nodes they ask `cluster` for.

    Raises:
        UsageError: it can never start them.
    """
    encoders = Demand("encoders", workers.num_encoders, workers.encoder_actor)
    readers = Demand("readers", workers.max_readers or 1, workers.reader_actor)
    console = plan_console(as_json)
    console.print(f"tokenize: {encoders}; up to {readers}, as the encoders need them", markup=False)
    if not workers.max_readers:
        console.print(
            "note: --readers is not given: there will be as many as the cluster has CPUs when the job starts; where it "
            "starts at nothing, 1",
            markup=False,
        )
    actors = {"encoders": workers.num_encoders, "readers": workers.max_readers}
    return actors | ({"cluster": say_nodes(console, cluster, [encoders, readers])} if cluster else {})


def tokenize_one(name: str, output: str, recipe: Recipe, paths: RunPaths) -> Manifest:
    """Tokenizes one of the recipe's corpora into `output`, or into its folder in the run where that is empty."""
    if not recipe.corpora[name].path:
        make_corpus(name, recipe, paths)
    corpus, workers, config = Corpus(paths.source_of(name)), recipe.tokenizers, recipe.tokenization
    if not recipe.corpora[name].high_resolution:
        config = replace(config, size_hr_px=0)
    output = output or paths.tokens_of(name)
    if "://" not in output and not Path(output).is_absolute():
        if in_package_cache():
            raise UsageError(f"--output {output!r}: the job runs inside Ray's package cache; give an absolute path")
        output = str(Path(output).absolute())  # workers have working directories of their own
    num_shards = len(corpus.shards)  # a corpus that cannot be used is refused before Ray starts
    say(f"tokenize: {num_shards} shards of layout {corpus.layout} in {corpus.source.url}")
    with ledger_attempt(paths, "tokenize", workers.use_gpu) as ledger:
        tools = Tools(paths.vqgan, paths.text_source, paths.text)
        manifest = tokenize_corpus(corpus, output, config, tools, workers, ProgressReporter(ledger))
    high = f", {manifest.rows_hr} of them at {config.size_hr_px} px, too" if manifest.rows_hr else ""
    say(
        f"tokenize: {manifest.rows_out} rows{high} in {manifest.shards} shards under {output}; "
        f"{manifest.rows_rejected} rejected {manifest.rejects_by_reason or ''}"
    )
    if config.size_hr_px and not manifest.rows_hr:
        say_error(f"no row has the high resolution: hr_where {config.hr_where!r} holds for none")
    return manifest


class ProgressReporter:
    """Tells how far the work is: a line every ten seconds, Ray's metrics, and the ledger, whose steps are shards."""

    def __init__(self, ledger: Any) -> None:
        self._next, self._ledger = 0.0, ledger
        self._counted = dict.fromkeys(("samples", "steps"), 0)
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
        """Tells, if it is time."""
        now = time.monotonic()
        so_far = {"samples": progress.rows, "steps": progress.shards_done - progress.shards_before}
        if so_far != self._counted:
            self._ledger.working.remote()
            self._ledger.add.remote(**{name: value - self._counted[name] for name, value in so_far.items()})
            self._counted = so_far
        ended = progress.shards_done + progress.shards_failed
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
            f"tokenize: {ended} of {progress.shards} shards ({share:.0%}), {rate:.0f} pictures/s, "
            f"{progress.rejects} rejected, {when if ended < progress.shards else 'writing done'}"
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


if __name__ == "__main__":
    run_job(Options, main, __doc__)
