"""A shard far larger than the others, on disk and in S3, takes as much memory as a small one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.checkout import CHECKOUT
from tests.support.large_shard import SHARD, make_shard
from tests.support.range_server import BUCKET, RangeServer

SAMPLES, PICTURE_BYTES = 2500, 1 << 20
MAX_GROWTH_BYTES = 100 << 20


def grown_bytes(corpus: str, output: Path, environment: dict[str, str], samples: int) -> int:
    """How much more memory a process takes that reads and writes the shard."""
    words = [sys.executable, "-m", "tests.support.large_shard", "--corpus", corpus, "--output", str(output)]
    words += ["--text-cache", str(output.parent / "text")]
    done = subprocess.run(
        words, cwd=CHECKOUT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["rows"], figures["ended"]) == (samples, 1)
    print(f"{corpus.partition(':')[0]}: {figures['grown_bytes'] / 1e6:.0f} MB more")
    return int(figures["grown_bytes"])


@pytest.mark.long
def test_a_tar_of_gigabytes_is_read_and_written_in_bounded_memory(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    make_shard(corpus / SHARD, SAMPLES, PICTURE_BYTES)
    assert grown_bytes(str(corpus), tmp_path / "local", {}, SAMPLES) < MAX_GROWTH_BYTES
    with RangeServer(corpus) as server:
        growth = grown_bytes(f"s3://{BUCKET}", tmp_path / "s3", server.environment(), SAMPLES)
        assert growth < MAX_GROWTH_BYTES
        assert server.sent[SHARD] < 1.01 * (corpus / SHARD).stat().st_size, "each piece is fetched once"
    assert pq.read_table(tmp_path / "local/00000.parquet").equals(pq.read_table(tmp_path / "s3/00000.parquet"))
