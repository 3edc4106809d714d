"""What is held in memory together is limited, whatever a corpus has."""

import json
from pathlib import Path

from tests.support.corpora import corpus_in
from tests.support.corpus_files import problem_of, read_all_of
from tests.support.pictures import noise_png
from tokenization.corpora.samples import MAX_TEXT_BYTES


def test_a_document_of_too_many_bytes_is_rejected_and_the_next_one_is_read(tmp_path: Path) -> None:
    picture = noise_png(0)
    (tmp_path / "0.png").write_bytes(picture)
    rows = [{"id": name, "segments": [{"image": "0.png"}] * count} for name, count in (("long", 12), ("short", 10))]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, bad, _ = read_all_of(corpus_in(tmp_path, max_bytes=len(picture)))
    assert [problem_of(sample)[0] for sample in bad] == ["bad document"] * 2 and len(good) == 20
    assert all(sample.picture is None and sample.file == "0.png" for sample in bad)


def test_a_file_of_metadata_beside_a_picture_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(noise_png(0))
    with (tmp_path / "0.json").open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)
    _, bad, _ = read_all_of(corpus_in(tmp_path))
    assert problem_of(bad[0])[0] == "bad metadata" and "16000001 bytes, more than" in problem_of(bad[0])[1]
