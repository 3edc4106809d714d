"""A writer writes each shard once, when it is complete, whatever order its chunks come in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.plain_job import encoded
from tests.support.tokens import FINGERPRINT
from tokenization.job.chunk import Chunk, EncodedChunk
from tokenization.job.writer import Writer
from tokenization.table.shard_statistics import ShardStatistics
from tokenization.table.token_table import OWN_COLUMNS, columns
from tokenization.table.token_writing import write_token_shard

PIXELS = np.zeros((2, 32, 32, 3), np.uint8)


def chunk(shard: str, index: int, last: bool = False, error: str = "") -> EncodedChunk:
    rows = [{"sample_id": f"{shard}/{index}{place}", "captions": []} for place in range(0 if error else 2)]
    rejects = [{"shard": shard, "key": f"bad{index}", "reason": "bad picture", "message": "x"}]
    return encoded(Chunk(shard, index, PIXELS, rows, rejects=rejects, last=last, error=error))


def written(folder: Path, chunks: Sequence[EncodedChunk]) -> Writer:
    writer = Writer(str(folder), FINGERPRINT)
    for one in chunks:
        writer.add([one])
    return writer


def test_chunks_of_several_shards_come_in_any_order_and_some_twice(tmp_path: Path) -> None:
    a, b = [chunk("a.tar", index, index == 2) for index in range(3)], [chunk("b.tar", 0, last=True)]
    writer = written(tmp_path, [a[2], a[0], b[0], a[0], b[0], a[1], a[1], a[2]])
    news = writer.news()
    assert (news.rows, news.rejects, [shard for shard, _ in news.ended]) == (8, 4, ["b.tar", "a.tar"])
    assert pq.read_table(tmp_path / "a.parquet")["sample_id"].to_pylist() == [
        f"a.tar/{index}{place}" for index in range(3) for place in range(2)
    ]
    lines = (tmp_path / "rejects/a.jsonl").read_text().splitlines()
    assert [line[line.index("bad") : line.index("bad") + 4] for line in lines] == ["bad0", "bad1", "bad2"]
    assert writer.news().ended == [], "each is told once"


def test_a_shard_that_lacks_a_chunk_is_not_written(tmp_path: Path) -> None:
    """Its other chunks died with an earlier process of the writer. The next pass reads the shard again."""
    writer = written(tmp_path, [chunk("a.tar", 1), chunk("a.tar", 2, last=True)])
    assert writer.news().ended == [] and not list(tmp_path.iterdir())


def test_a_shard_that_cannot_be_read_to_its_end_is_told_and_not_written(tmp_path: Path) -> None:
    writer = written(tmp_path, [chunk("a.tar", 0), chunk("a.tar", 1, last=True, error="torn"), chunk("a.tar", 0)])
    assert writer.news().ended == [("a.tar", "torn")] and not list(tmp_path.iterdir())


def test_whoever_asks_learns_that_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file")
    writer = written(tmp_path / "tokens", [chunk("a.tar", 0, last=True)])
    with pytest.raises(OSError, match="tokens"):
        writer.news()


def test_a_token_shard_is_byte_for_byte_that_of_earlier_code(tmp_path: Path) -> None:
    """It was made of all rows at once. Fingerprints, hashes of content and resumes go on from its files."""
    generator = np.random.default_rng(0)
    fingerprint = FINGERPRINT.__class__(**{**FINGERPRINT.__dict__, "num_codes_hr": 4})
    rows = [
        {
            "sample_id": f"a.tar/{number}",
            "codes": generator.integers(0, 32, 9).astype(np.uint16),
            "codes_hr": generator.integers(0, 32, 4).astype(np.uint16) if number % 3 else None,
            "captions": [{"lang": "zh", "text": "猫", "ids": [1, 2, number], "truncated": number == 4}] * (number % 2),
            "width": 40 + number,
            "height": 30,
            "crop": {"left": 1, "top": 2, "side": 28},
            "document": {"id": "d", "place": 0, "of": 1, "before": [7], "after": []} if number == 5 else None,
            "score": number / 7 if number % 4 else None,
            "mixed": number if number % 2 else "text",
        }
        for number in range(50)
    ]
    write_token_shard(tmp_path / "new.parquet", rows, fingerprint)
    schema = pa.schema(columns(fingerprint.num_codes, fingerprint.num_codes_hr))
    table = pa.Table.from_pylist([{name: row.get(name) for name in OWN_COLUMNS} for row in rows], schema=schema)
    mixed = [str(value) if isinstance(value, int) else '"text"' for value in (row["mixed"] for row in rows)]
    table = table.append_column("mixed", pa.array(mixed)).append_column("score", pa.array([r["score"] for r in rows]))
    metadata = pq.read_schema(tmp_path / "new.parquet").metadata
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "old.parquet", compression="zstd")
    assert (tmp_path / "new.parquet").read_bytes() == (tmp_path / "old.parquet").read_bytes()
    assert metadata[b"mars.content"] == b"c5db7b7f5050039f13f59409cea038e007400679337157f14b8dd7052f1fcddd"


def test_counts_of_a_shard(tmp_path: Path) -> None:
    ((_, ended),) = written(tmp_path, [chunk("a.tar", 0), chunk("a.tar", 1, last=True)]).news().ended
    assert isinstance(ended, ShardStatistics)
    assert (ended.rows_out, ended.rows_hr, ended.truncated_captions, ended.rejects) == (4, 0, 0, {"bad picture": 2})
