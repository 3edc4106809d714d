"""A stage's selection of rows is made once, and made again where anything it follows from has changed."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.data.row_index_cache
from pipeline.data.row_index import RowIndex
from pipeline.data.row_selection import RowSelection, build_row_index
from tests.support.tokens import stored_row_index, write_documents, write_tokens
from tokenization.files.storage import open_storage
from tokenization.table.pass_through import as_column, column_type


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[RowSelection]:
    """Counts how often a selection is really made."""
    calls = []

    def counting(selection: RowSelection) -> RowIndex:
        calls.append(selection)
        return build_row_index(selection)

    monkeypatch.setattr(pipeline.data.row_index_cache, "build_row_index", counting)
    return calls


def test_the_second_time_it_is_read_and_is_the_same(tmp_path: Path, made: list[RowSelection]) -> None:
    write_tokens(tmp_path / "tokens")
    write_documents(tmp_path / "documents")
    for tokens, where, held_out, longest in (("tokens", "score < 0.8", "score < 0.2", None), ("documents", "", "", 40)):
        asked = RowSelection(tmp_path / tokens, where, (), longest, held_out)
        first, second = (stored_row_index(tmp_path / "kept" / f"{tokens}.parquet", asked) for _ in range(2))
        direct = build_row_index(asked)
        assert first.sha256() == second.sha256() == direct.sha256()
        assert second.counts.tolist() == direct.counts.tolist() and second.num_too_long == direct.num_too_long
        assert [second.rows(shard).tolist() for shard in range(len(second.shards))] == [
            direct.rows(shard).tolist() for shard in range(len(direct.shards))
        ]
    assert direct.num_too_long and len(made) == 2


def test_whatever_it_follows_from_makes_it_anew(tmp_path: Path, made: list[RowSelection]) -> None:
    tokens, side, kept = tmp_path / "tokens", tmp_path / "side.parquet", tmp_path / "kept.arrow"
    write_tokens(tokens)
    ids = [f"{shard:05d}.tar/{row:04d}" for shard in range(3) for row in range(10)]
    pq.write_table(pa.table({"sample_id": ids, "clip": [0.1] * 15 + [0.3] * 15}), side)
    counts = []

    def select(where: str, *rest: Any) -> int:
        counts.append(int(stored_row_index(kept, RowSelection(tokens, where, *rest)).counts.sum()))
        return len(made)

    assert select("score < 0.5") == 1
    assert select("score < 0.6") == 2, "another query"
    assert select("score < 0.6", (), None, "score < 0.1") == 3, "other rows held out"
    assert select("clip > 0.2", (str(side),)) == 4, "a side table"
    pq.write_table(pa.table({"sample_id": ids, "clip": [0.1] * 20 + [0.3] * 10}), side)
    os.utime(side, (1, 1))
    assert select("clip > 0.2", (str(side),)) == 5, "the side table changed"
    (tokens / "00002.parquet").unlink()
    assert select("score < 0.5") == 6, "a shard is gone"
    kept.write_bytes(kept.read_bytes()[:-20])
    assert select("score < 0.5") == 7, "what was kept is damaged"
    assert counts == [15, 18, 15, 15, 10, 10, 10]


def test_it_is_kept_when_a_tokenization_with_nothing_to_do_writes_its_manifest(
    tmp_path: Path, made: list[RowSelection]
) -> None:
    write_tokens(tmp_path / "tokens")
    for modified in (1, 2):
        (tmp_path / "tokens" / "manifest.json").write_text("{}")
        os.utime(tmp_path / "tokens" / "manifest.json", (modified, modified))
        stored_row_index(tmp_path / "kept.arrow", RowSelection(tmp_path / "tokens", "score < 0.5"))
    assert len(made) == 1


def test_it_is_kept_when_the_run_moves(tmp_path: Path, made: list[RowSelection]) -> None:
    write_tokens(tmp_path / "old" / "tokens")
    stored_row_index(tmp_path / "old" / "kept.arrow", RowSelection(tmp_path / "old" / "tokens", "score < 0.5"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    stored_row_index(tmp_path / "new" / "kept.arrow", RowSelection(tmp_path / "new" / "tokens", "score < 0.5"))
    assert len(made) == 1


def test_what_earlier_code_kept_is_read(tmp_path: Path, made: list[RowSelection]) -> None:
    """It kept a parquet file, and hashed the folder's path."""
    tokens, kept = tmp_path / "tokens", tmp_path / "kept.arrow"
    write_tokens(tokens)
    selection = RowSelection(tokens, "score < 0.5")
    index = build_row_index(selection)
    shards = [f"{name} {version}" for name, version in sorted(open_storage(tokens).versions().items())]
    asked = [[str(tokens), "score < 0.5", "", None], shards, []]
    metadata = {b"mars.made_from": hashlib.sha256(json.dumps(asked).encode()).hexdigest(), b"mars.too_long": "3"}
    chosen = [value.as_py() for value in index.by_shard["chosen"]]
    contents = index.by_shard["content"].to_pylist()
    columns = {
        "shard": index.shards,
        "content": contents,
        "rows": index.counts,
        "chosen": pa.array(chosen, pa.binary()),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), kept.with_suffix(".parquet"))
    first, again = (stored_row_index(kept, selection) for _ in range(2))
    assert not made and first.sha256() == again.sha256() == index.sha256() and again.num_too_long == 3
    assert again.file == kept, "it is mapped from now on"


def test_scores_kept_as_text_select_as_numbers_do_and_what_is_none_is_counted(tmp_path: Path) -> None:
    """A csv, or a column of several types, leaves numbers as text, in shards beside others with real numbers."""
    values: list[list[Any]] = [[6.5, 4.0, 7.0], [None] * 3, ["6.1", None, "n/a"], ["7", 6.2, "none"]]
    write_tokens(tmp_path / "tokens", shards=len(values), rows=3)
    for number, scores in enumerate(values):
        path = tmp_path / "tokens" / f"{number:05d}.parquet"
        table = pq.read_table(path)
        column = as_column(scores, column_type(scores))
        pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", column), path)
    selection = RowSelection(tmp_path / "tokens", "score >= 6", held_out="score > 6.9")
    for index in (stored_row_index(tmp_path / "kept.arrow", selection) for _ in range(2)):
        assert [index.rows(shard).tolist() for shard in range(4)] == [[0], [], [0], [1]]
        assert index.not_numbers == {"score": 2}
