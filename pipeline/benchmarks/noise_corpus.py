"""A corpus of noise for benchmarks, which measure only the work."""

from pathlib import Path

from pipeline.runs.made_shards import ShardTasks, write_missing
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say
from tokenization.corpora.noise import write_noise_shard


def make_noise(folder: Path, num_rows: int, size_px: int, shard_rows: int, paths: RunPaths) -> None:
    """Makes the missing shards of a corpus of noise; see `write_noise_shard`.

    Args:
        folder: folder of the shards.
        num_rows: total number of pictures.
        size_px: shorter side of the pictures.
        shard_rows: pictures in a shard.
        paths: the run whose ledger counts the work and whose seed draws the noise.
    """
    tasks: ShardTasks = {}
    for start in range(0, num_rows, shard_rows):
        count = min(shard_rows, num_rows - start)
        path = folder / f"{start // shard_rows:05d}.tar"
        tasks[path] = (write_noise_shard, (start, count, size_px, paths.recipe.seed), count)
    write_missing(tasks, paths)
    say(f"corpus: {num_rows} pictures of noise, shorter side {size_px} px, in {folder}")
