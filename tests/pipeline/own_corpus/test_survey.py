"""A look at a corpus counts its rows and finds its captions and sizes, in each layout."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError, UsageError
from pipeline.own_corpus.survey import Survey, survey_corpus
from tests.support.pictures import noise_png, png, write_tar

ROWS = 60


def folder(place: Path) -> None:
    for row in range(ROWS):
        (place / f"{row:04d}.png").write_bytes(noise_png(row) if row % 10 else b"broken")
    rows = [{"file_name": f"{row:04d}.png", "caption": f"picture number {row}"} for row in range(ROWS)]
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def tars(place: Path) -> None:
    for number, shard in enumerate(range(0, ROWS, 20)):
        rows = range(shard, shard + 20)
        samples = [
            (f"{row:09d}", noise_png(row) if row % 10 else b"broken", {"caption": f"number {row}"}) for row in rows
        ]
        write_tar(place / f"{number:05d}.tar", samples)


def parquet(place: Path) -> None:
    for number, shard in enumerate(range(0, ROWS, 30)):
        rows = [
            {"image": noise_png(row) if row % 10 else b"broken", "caption": f"number {row}"}
            for row in range(shard, shard + 30)
        ]
        pq.write_table(pa.Table.from_pylist(rows), place / f"{number}.parquet")


@pytest.mark.parametrize("write", [folder, tars, parquet])
def test_rows_captions_and_rejects_are_found(tmp_path: Path, write) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path)
    found = survey_corpus(str(tmp_path), "", 1000, 32)
    assert (found.rows, found.rows_counted, found.usable_rows) == (ROWS, True, 54)
    assert [(column.name, column.language) for column in found.columns] == [("caption", "en")]
    assert found.rejects == {"bad picture": 6} and found.share_at_least(32) == 1 and found.share_at_least(33) == 0


def test_the_samples_are_of_the_whole_folder_and_not_of_its_beginning(tmp_path: Path) -> None:
    folder(tmp_path)
    found = survey_corpus(str(tmp_path), "", 16, 32)
    keys = sorted(int(look.sample.key.removesuffix(".png")) for look in found.looks)
    assert len(keys) <= 16 and keys[-1] > ROWS - 10 and found.rows == ROWS


def test_the_rows_of_many_shards_are_extrapolated_from_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars(tmp_path)
    monkeypatch.setattr("pipeline.own_corpus.survey.ROWS_COUNTED", 20)
    found = survey_corpus(str(tmp_path), "", 8, 32)
    assert found.rows == pytest.approx(ROWS, rel=0.1) and not found.rows_counted


def test_documents_and_a_corpus_without_captions_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a" / "0.tar", [("0", png(), {"width": 3})])
    with pytest.raises(InputError, match="none of the 1 samples looked at can be used: 1 x no caption"):
        survey_corpus(str(tmp_path / "a"), "", 8, 32)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="interleaved documents"):
        survey_corpus(str(tmp_path / "b"), "documents", 8, 32)


def test_usable_rows_count_the_rejects_that_are_to_be_expected(tmp_path: Path) -> None:
    folder(tmp_path)
    found: Survey = survey_corpus(str(tmp_path), "", 30, 32)
    assert 0 < found.usable_rows < ROWS
