"""Measures what a tokenization of very many shards takes beside its shards: the start, a resume, and closing the books.

python -m tests.support.many_shards --shards 1000000 [--s3]

On disk the files are there, and empty. With --s3 a server in a process of its own answers as S3 does, and makes its
listings up: moto would take gigabytes, and seconds for each page. Each part runs in a process of its own, whose peak of
memory is told. The start includes Ray Data's tasks for 1,024 readers.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from tests.support.checkout import CHECKOUT
from tests.support.listing_server import ListingServer
from tests.support.tokens import FINGERPRINT, statistics_of
from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus
from tokenization.files.storage import open_storage
from tokenization.job.books import Books
from tokenization.job.checks import check_names
from tokenization.job.one_pass import tasks_of
from tokenization.table.manifest import write_manifest
from tokenization.table.shard_statistics import ShardStatistics, token_name
from tokenization.table.sums import Sums

READERS = 1024
LEFT = 1000
"""Shards that a resumed job has left to do."""


@dataclass(frozen=True)
class Options:
    """What is measured."""

    shards: int = 1_000_000
    """Shards of the corpus."""
    s3: bool = False
    """In place of folders, a bucket of a server on this machine."""
    part: str = ""
    """One part alone, on the folders that are there: start, resume or close."""
    corpus: str = ""
    """Of the part: the corpus."""
    output: str = ""
    """Of the part: the folder of tokens."""


def start(options: Options) -> None:
    """All that a job does until its first task, apart from its models."""
    import ray

    corpus = Corpus(CorpusSource(options.corpus, "webdataset"))
    shards = corpus.shards
    assert len(shards) == options.shards and corpus.ignored == {}
    check_names(shards)
    books = Books(open_storage(options.output), shards, 0, FINGERPRINT.codebook_size)
    pending = books.pending(shards)
    if options.part != "start":
        assert len(pending) == LEFT
        return
    assert len(pending) == options.shards
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    began = time.monotonic()
    rows = [{"shards": names} for names in tasks_of(pending, READERS)]
    ray.data.from_items(rows, override_num_blocks=len(rows))
    print(f"{len(rows)} tasks: {time.monotonic() - began:.1f} s", file=sys.stderr)
    ray.shutdown()


def close(options: Options) -> None:
    """Adds up the statistics of all shards, stores the sums, and writes the manifest."""
    storage, sums, one = open_storage(options.output), Sums(FINGERPRINT.codebook_size), statistics()
    for shard in shard_names(options.shards):
        sums.add(shard, one)
    sums.store(storage)
    write_manifest(options.corpus, sums, {}, FINGERPRINT, storage, {})


PARTS: dict[str, Callable[[Options], None]] = {"close": close, "start": start, "resume": start}


def statistics() -> ShardStatistics:
    """Those of a shard of 10,000 rows."""
    codes = np.arange(FINGERPRINT.codebook_size, dtype=np.uint16)[None]
    return statistics_of(codes, [{"reason": "bad picture"}], truncated=3)


def shard_names(count: int) -> list[str]:
    return [f"{number:07d}.tar" for number in range(count)]


def measured(options: Options, part: str, corpus: str, output: str) -> dict[str, float]:
    """Runs a part in a process of its own."""
    words = [sys.executable, "-m", "tests.support.many_shards", "--shards", str(options.shards), "--part", part]
    words += ["--corpus", corpus, "--output", output]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sys.stderr.write(done.stderr if part == "start" else "")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_part(options: Options) -> dict[str, float]:
    """Runs the named part here."""
    began, cpu = time.monotonic(), time.process_time()
    PARTS[options.part](options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.monotonic() - began, "cpu_s": time.process_time() - cpu, "peak_rss_bytes": peak}


def on_disk(options: Options, folder: Path) -> dict[str, dict[str, float]]:
    corpus, output, fresh = folder / "corpus", folder / "tokens", folder / "fresh"
    for each in (corpus, output, fresh):
        each.mkdir()
    for shard in shard_names(options.shards):
        (corpus / shard).touch()
    figures = {
        "close": measured(options, "close", str(corpus), str(output)),
        "start": measured(options, "start", str(corpus), str(fresh)),
    }
    for shard in shard_names(options.shards)[: options.shards - LEFT]:
        (output / token_name(shard)).touch()
    write_sums(options, str(output))
    return figures | {"resume": measured(options, "resume", str(corpus), str(output))}


def in_s3(options: Options) -> dict[str, dict[str, float]]:
    done = options.shards - LEFT
    prefixes = {"in/": (".tar", options.shards), "out/": (".parquet", done), "out/books/": (".json", done)}
    with ListingServer(prefixes) as server:
        server.set_environment()
        figures = {
            "close": measured(options, "close", "s3://corpus/in", "s3://corpus/closed"),
            "start": measured(options, "start", "s3://corpus/in", "s3://corpus/fresh"),
        }
        write_sums(options, "s3://corpus/out")
        return figures | {"resume": measured(options, "resume", "s3://corpus/in", "s3://corpus/out")}


def write_sums(options: Options, output: str) -> None:
    sums = Sums(FINGERPRINT.codebook_size)
    for shard in shard_names(options.shards)[: options.shards - LEFT]:
        sums.add(shard, statistics())
    sums.store(open_storage(output))


def main(options: Options) -> None:
    if options.part:
        print(json.dumps(run_part(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = in_s3(options) if options.s3 else on_disk(options, Path(folder))
    print(json.dumps({"settings": asdict(options), **figures}))


if __name__ == "__main__":
    main(tyro.cli(Options))
