"""Tokens at random, and the inputs of a stage that trains on them, for benchmarks of the feed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.stage import MAIN, Source, StageConfig
from pipeline.config.vocabulary import JointVocabulary
from pipeline.data.plan_inputs import PlanInputs
from pipeline.data.row_index import SourceRows
from pipeline.data.row_selection import RowSelection, build_row_index
from pipeline.data.sequences import SequenceBuilder
from pipeline.planning.work import INSTRUCTION_IDS, SampleLengths
from tokenization.files.storage import open_storage
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint
from tokenization.table.token_writing import write_token_shard


@dataclass(frozen=True)
class FeedBenchmark:
    """Settings of the benchmark.

    Attributes:
        stage, stage_number: stage of a recipe; its samples come from one corpus.
        vocabulary: joint id layout.
        lengths: lengths of the samples. Caption lengths are lognormal around the mean, as on the web.
        world_size: ranks that share a step; rank 0's loader is measured.
        step_s: seconds of one step of the model.
        steps: measured steps, after the first one.
        shard_rows: rows in a shard.
        in_process: the samples are built in a process of their own.
    """

    stage: StageConfig
    stage_number: int
    vocabulary: JointVocabulary
    lengths: SampleLengths
    world_size: int
    step_s: float
    steps: int
    shard_rows: int
    in_process: bool = False


def write_tokens(location: str, benchmark: FeedBenchmark, report: Callable[[str], None]) -> None:
    """Writes shards of random tokens, enough for more than two windows, to a folder or URL."""
    storage = open_storage(location)
    samples = (benchmark.steps + 2) * benchmark.stage.global_batch_size
    shards = max(2 * benchmark.stage.window_shards + 1, -(-samples // benchmark.shard_rows))
    rows = _rows(benchmark)
    report(f"writes {shards} shards of {benchmark.shard_rows} rows to {location}")
    for shard in range(shards):
        storage.write(f"{shard:05d}.parquet", lambda path: write_token_shard(path, rows, _fingerprint(benchmark)))
    storage.write(MANIFEST_FILE, lambda path: path.write_text("{}"))


def write_shard(path: Path, benchmark: FeedBenchmark) -> None:
    """Writes one shard of random tokens."""
    write_token_shard(path, _rows(benchmark), _fingerprint(benchmark))


def _fingerprint(benchmark: FeedBenchmark) -> Fingerprint:
    lengths, languages = benchmark.lengths, {f"caption_{name}": name for name in benchmark.stage.language_shares}
    high = lengths.num_high_codes if benchmark.stage.needs_high_codes else None
    codebook, most = benchmark.vocabulary.codebook_size, lengths.max_caption_ids
    return Fingerprint("", "", {}, "float32", [1, 1, 1, 3], codebook, lengths.num_codes, most, languages, None, high)


def _rows(benchmark: FeedBenchmark) -> list[dict[str, Any]]:
    lengths, random = benchmark.lengths, np.random.default_rng(0)
    high = lengths.num_high_codes if benchmark.stage.needs_high_codes else None
    codebook, most = benchmark.vocabulary.codebook_size, lengths.max_caption_ids
    spread = random.lognormal(np.log(lengths.mean_caption_ids) - 0.32, 0.8, benchmark.shard_rows)
    counts = np.clip(spread.round(), 1, most).astype(int)
    return [
        {
            "sample_id": f"{number:09d}",
            "codes": random.integers(0, codebook, lengths.num_codes).astype(np.uint16),
            "codes_hr": random.integers(0, codebook, high).astype(np.uint16) if high else None,
            "captions": [
                {
                    "lang": language,
                    "text": "word " * count,
                    "ids": random.integers(0, benchmark.vocabulary.text_vocab_size, count).tolist(),
                    "truncated": False,
                }
                for language in benchmark.stage.language_shares
            ],
        }
        for number, count in enumerate(counts.tolist())
    ]


def inputs_of(location: str, benchmark: FeedBenchmark) -> PlanInputs:
    """The inputs of the plan of the benchmark's stage, over tokens at a folder or URL."""
    stage = replace(benchmark.stage, sources={MAIN: Source()})
    index = build_row_index(RowSelection(location, "", (), stage.seq_len))
    instructions = {language: [0] * count for language, count in INSTRUCTION_IDS.items()}
    builder = SequenceBuilder(benchmark.vocabulary, instructions, 0)
    return PlanInputs(stage, benchmark.stage_number, 0, (SourceRows(MAIN, location, index),), builder)
