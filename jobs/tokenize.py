#!/usr/bin/env -S python -P
"""Tokenizes an image-text corpus into token shards: VQ codes and Qwen ids, once, offline."""

import jobs  # noqa: F401  # isort: skip
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.common.cli import JobOptions, at_least, run_job
from jobs.common.recipes import load_recipe
from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.runs.paths import in_package_cache
from tokenization.config.sources import CORPUS_FORMATS
from tokenization.config.tokenization import TokenizationConfig

USUAL = TokenizationConfig()
CAPTIONS = " ".join(f"{language}={column}" for column, language in USUAL.caption_columns.items())
LEAST = dict.fromkeys(("max_caption_ids", "resolution", "encode_batch_size", "encoders"), 1)
LEAST |= dict.fromkeys(("max_bytes", "max_pixels", "max_side", "max_aspect_ratio"), 1)
LEAST |= dict.fromkeys(("hr_resolution", "readers", "min_side"), 0)
SETTINGS = {
    "resolution": "tokenization.size_px",
    "hr_resolution": "tokenization.size_hr_px",
    "hr_where": "tokenization.hr_where",
    "captions": "tokenization.caption_columns",
    "max_caption_ids": "tokenization.max_caption_ids",
    "encode_batch_size": "tokenization.encode_batch_size",
    "encoders": "tokenizers.num_encoders",
    "readers": "tokenizers.max_readers",
    "max_bytes": "tokenization.limits.max_bytes",
    "max_pixels": "tokenization.limits.max_pixels",
    "max_side": "tokenization.limits.max_side_px",
    "min_side": "tokenization.limits.min_side_px",
    "max_aspect_ratio": "tokenization.limits.max_aspect_ratio",
    "corpus": "corpora.{}.path",
    "output": "corpora.{}.tokens",
    "layout": "corpora.{}.layout",
    "image_column": "corpora.{}.image_column",
}
"""The setting that each flag replaces; of a corpus, the first one's."""


def _recipes(usual: object, metavar: str) -> Any:
    """Shows in --help that the recipe decides about a flag that is not given, and the usual value in recipes."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: the recipe's; usually {usual})")


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `tokenize`. A flag that is not given takes the recipe's value; `--set` changes any other value."""

    corpus: Annotated[str | None, _recipes("the corpus that the project makes", "FOLDER")] = None
    """Folder or s3://, gs:// or az:// place to tokenize instead of the recipe's first corpus, and nothing else."""
    output: Annotated[str | None, _recipes("`tokens` in the run's folder", "FOLDER")] = None
    """Folder or s3://, gs:// or az:// place for the tokens of the first corpus, and of no other."""
    layout: Annotated[str | None, _recipes("by its files", f"{{{','.join(CORPUS_FORMATS)}}}")] = None
    """The corpus's format, as docs/formats.md describes it: for example tar shards, or a folder with metadata.jsonl.
    Empty: detected from its files."""
    image_column: Annotated[str | None, _recipes("the only one", "COLUMN")] = None
    """For parquet: the column of the pictures' bytes. Empty: the only such column, or one of the usual names."""
    captions: Annotated[tuple[str, ...] | None, _recipes(CAPTIONS, "LANGUAGE=COLUMN")] = None
    """Caption columns and their languages, as in --captions en=caption zh=caption_zh."""
    max_caption_ids: Annotated[int | None, _recipes(USUAL.max_caption_ids, "INT")] = None
    """Maximum text ids of a caption; longer ones are cut and marked."""
    resolution: Annotated[int | None, _recipes(USUAL.size_px, "INT")] = None
    """Side of the square that is encoded, px; a multiple of the VQ-GAN's factor."""
    hr_resolution: Annotated[int | None, _recipes("0", "INT")] = None
    """Side at which the same crop is encoded a second time, px; a multiple of the factor. 0 for none."""
    hr_where: Annotated[str | None, _recipes("all", "QUERY")] = None
    """Which pictures get the high resolution, as a pandas query over a row of the corpus: --hr-where 'score >= 6'.
    Empty: all."""
    encode_batch_size: Annotated[int | None, _recipes(USUAL.encode_batch_size, "INT")] = None
    """Pictures encoded at once."""
    encoders: Annotated[int | None, _recipes(1, "INT")] = None
    """Number of encoding actors, each with one GPU if the recipe uses GPUs, or else one CPU. After a minute the job
    says whether readers or encoders are short."""
    readers: Annotated[int | None, _recipes(0, "INT")] = None
    """Maximum number of reading and decoding actors. 0: the number of the cluster's CPUs."""
    max_bytes: Annotated[int | None, _recipes(USUAL.limits.max_bytes, "INT")] = None
    """Maximum size of a picture file in bytes; larger ones are rejected."""
    max_pixels: Annotated[int | None, _recipes(USUAL.limits.max_pixels, "INT")] = None
    """Maximum number of pixels; pictures with more are rejected."""
    max_side: Annotated[int | None, _recipes(USUAL.limits.max_side_px, "INT")] = None
    """Maximum longer side in px; other pictures are rejected."""
    min_side: Annotated[int | None, _recipes(USUAL.limits.min_side_px, "INT")] = None
    """Minimum shorter side in px; other pictures are rejected."""
    max_aspect_ratio: Annotated[float | None, _recipes(USUAL.limits.max_aspect_ratio, "FLOAT")] = None
    """Maximum ratio of longer to shorter side; other pictures are rejected."""
    json: bool = False
    """Print the manifest as one JSON object, last; for a dry run, the nodes."""
    dry_run: bool = False
    """Tokenize nothing: print the actors that the job will start, and with --cluster the nodes they ask for."""
    cluster: str = ""
    """With --dry-run: cluster file, as in cluster/aws_a100.yaml. Exit code 2 if it can never start the nodes."""

    def applied(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with the values of the flags.

        Raises:
            UsageError: a number is too low, the layout is unknown, captions are not LANGUAGE=COLUMN, --set has the same
                setting, or the recipe is impossible with these values.
        """
        if self.layout and self.layout not in CORPUS_FORMATS:
            raise UsageError(f"--layout {self.layout!r} is unknown; choose one of {', '.join(CORPUS_FORMATS)}")
        if self.image_column and self.layout not in (None, "", "parquet"):
            raise UsageError(f"--image-column is only for the layout parquet, not for --layout {self.layout}")
        given = {name for name, value in asdict(self).items() if value is not None}
        at_least(self, **{name: least for name, least in LEAST.items() if name in given})
        for name in filter(given.__contains__, SETTINGS):
            setting = SETTINGS[name].format(recipe.first_corpus)
            if any(f"{one.partition('=')[0]}.".startswith(f"{setting}.") for one in self.set):
                raise UsageError(f"--{name.replace('_', '-')} and --set {setting} decide the same; give one of them")
        corpus = _given(
            path=_place(self.corpus), tokens=self.output, layout=self.layout, image_column=self.image_column
        )
        limits = _given(
            max_bytes=self.max_bytes,
            max_pixels=self.max_pixels,
            max_side_px=self.max_side,
            min_side_px=self.min_side,
            max_aspect_ratio=self.max_aspect_ratio,
        )
        tokenization = _given(
            size_px=self.resolution,
            size_hr_px=self.hr_resolution,
            hr_where=self.hr_where,
            caption_columns=None if self.captions is None else _columns(self.captions),
            max_caption_ids=self.max_caption_ids,
            encode_batch_size=self.encode_batch_size,
            limits=replace(recipe.tokenization.limits, **limits),
        )
        tokenizers = _given(num_encoders=self.encoders, max_readers=self.readers)
        applied = replace(
            recipe,
            corpora=recipe.corpora | {recipe.first_corpus: replace(recipe.corpus, **corpus)},
            tokenization=replace(recipe.tokenization, **tokenization),
            tokenizers=replace(recipe.tokenizers, **tokenizers),
        )
        if self.hr_where and not applied.tokenization.size_hr_px:
            raise UsageError("--hr-where selects pictures for the high resolution, which is off; add --hr-resolution")
        if problems := applied.problems():
            raise UsageError("; ".join(problems))
        return applied

    def names(self, recipe: Recipe) -> list[str]:
        """Returns the corpora to tokenize: all, or the first alone if a flag concerns one corpus."""
        of_one = (self.corpus, self.output, self.layout, self.image_column)
        return list(recipe.corpora) if all(each is None for each in of_one) else [recipe.first_corpus]


def main(options: Options) -> dict[str, Any]:
    """Tokenizes the remaining shards, after making missing corpora of the project."""
    if options.cluster and not options.dry_run:
        raise UsageError("--cluster is for a dry run; add --dry-run, or leave --cluster out to tokenize")
    if options.dry_run:
        from pipeline.reports.asked_nodes import plan_tokenizers

        recipe = options.applied(load_recipe(options.recipe, options.set))
        return plan_tokenizers(recipe.tokenizers, options.cluster, options.json)
    recipe, paths = options.resolve()
    recipe = options.applied(recipe)
    if options.output and "://" not in options.output and not Path(options.output).is_absolute() and in_package_cache():
        raise UsageError(f"--output {options.output!r}: the job runs inside Ray's package cache; give an absolute path")

    from pipeline.launch.tokenization import check_shards, tokenize_corpora

    manifests = tokenize_corpora(recipe, replace(paths, recipe=recipe), options.names(recipe))
    (first, *others) = manifests
    result = asdict(manifests[first]) | {"further_corpora": {name: asdict(manifests[name]) for name in others}}
    if options.json and any(each.failed_shards or not each.rows_out for each in manifests.values()):
        print(json.dumps(result, ensure_ascii=False))
    check_shards(manifests)
    return result


def _columns(captions: tuple[str, ...]) -> dict[str, str]:
    """Returns languages by caption column."""
    if not captions:
        raise UsageError("--captions is empty; write LANGUAGE=COLUMN, as in --captions en=caption, or leave it out")
    columns: dict[str, str] = {}
    for pair in captions:
        language, separator, column = pair.partition("=")
        if not (language and separator and column):
            raise UsageError(f"--captions {pair!r}: write LANGUAGE=COLUMN, as in en=caption")
        if column in columns:
            raise UsageError(
                f"--captions {pair!r}: column {column!r} is {columns[column]!r} already; give it one language"
            )
        columns[column] = language
    return columns


def _place(folder: str | None) -> str | None:
    """Returns a folder in a form that every worker can find."""
    return folder if not folder or "://" in folder else str(Path(folder).expanduser().absolute())


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


if __name__ == "__main__":
    run_job(Options, main, __doc__)
