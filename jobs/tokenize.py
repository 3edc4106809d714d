#!/usr/bin/env -S python -P
"""Tokenizes an image-text corpus into token shards: VQ codes and Qwen ids, once, offline."""

import sys
from pathlib import Path

# This very file would hide the standard library's `tokenize` from every script in this folder.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from dataclasses import asdict, dataclass, replace  # noqa: E402

from jobs.common.cli import JobOptions, complain, counted, run_job, say  # noqa: E402
from jobs.common.exit_codes import FailedShards  # noqa: E402
from jobs.make_corpus import make_corpus  # noqa: E402
from tokenization.corpus import list_shards  # noqa: E402
from tokenization.tokenize_corpus import Tools, tokenize_corpus  # noqa: E402


@dataclass(frozen=True)
class Options(JobOptions):
    """Flags of `tokenize`."""

    corpus: str = ""
    """Folder of tar shards to tokenize instead of the recipe's."""
    json: bool = False
    """Print the manifest as one JSON object, last."""


def main(options: Options) -> dict:
    """Tokenizes what is not tokenized yet; makes the demo's corpus where it is missing."""
    recipe, paths = options.resolve()
    if options.corpus:
        recipe = replace(recipe, corpus=replace(recipe.corpus, path=str(Path(options.corpus).absolute())))
        paths = replace(paths, recipe=recipe)
    if not recipe.corpus.path:
        make_corpus(recipe, paths)
    list_shards(paths.corpus)
    use_gpu = recipe.scaling.use_gpu

    def report(shard: str, done: int, total: int) -> None:
        say(f"tokenize: {done} of {total} shards ({shard})")

    with counted(paths, "tokenize", recipe.num_encoders if use_gpu else recipe.num_encoders + 1, use_gpu) as ledger:
        tools = Tools(paths.vqgan, recipe.text_tokenizer, paths.text)
        manifest = tokenize_corpus(
            paths.corpus, paths.tokens, recipe.tokenization, tools, recipe.num_encoders, use_gpu, report
        )
        ledger.add.remote(samples=manifest.rows_out, steps=manifest.shards)
    say(
        f"tokenize: {manifest.rows_out} rows in {manifest.shards} shards under {paths.tokens}; "
        f"{manifest.rows_rejected} rejected {manifest.rejects_by_reason or ''}"
    )
    if manifest.failed_shards:
        for message in manifest.failed_shards.values():
            complain(f"failed: {message}")
        raise FailedShards(f"{len(manifest.failed_shards)} shards could not be read; mend them and run the job again")
    return asdict(manifest)


if __name__ == "__main__":
    run_job(Options, main, __doc__)
