"""A corpus of noise for benchmarks, where only the work counts."""

from pathlib import Path

from pipeline.runs.made_shards import ShardTasks, write_missing
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say
from tokenization.corpora.noise import write_noise_shard


def make_noise(folder: Path, num_rows: int, size_px: int, shard_rows: int, paths: RunPaths) -> None:
    """Makes the shards of a corpus of noise that are missing; see `write_noise_shard`.

    Args:
        folder: where they go.
        num_rows: pictures in all.
        size_px: shorter side of the pictures.
        shard_rows: pictures a shard.
        paths: of the run in whose ledger the work is counted, with whose seed the noise is drawn.
    """
    tasks: ShardTasks = {}
    for start in range(0, num_rows, shard_rows):
        count = min(shard_rows, num_rows - start)
        path = folder / f"{start // shard_rows:05d}.tar"
        tasks[path] = (write_noise_shard, (start, count, size_px, paths.recipe.seed), count)
    write_missing(tasks, paths)
    say(f"corpus: {num_rows} pictures of noise, shorter side {size_px} px, in {folder}")
