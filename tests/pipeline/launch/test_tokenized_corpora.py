"""A tokenization ends with the right exit code, and its user learns why."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from jobs.common.exit_codes import exit_code_of
from pipeline.launch.tokenization import check_shards, said_of_links
from tests.support.corpora import corpus_in
from tests.support.corpus_files import write_members
from tests.support.pictures import noise_png
from tests.support.tokens import FINGERPRINT, statistics_of
from tokenization.files.storage import open_storage
from tokenization.table.manifest import Manifest, write_manifest
from tokenization.table.shard_statistics import Notes
from tokenization.table.sums import Sums


def manifest(folder: Path, rows: int, rejects: int, failed: int, notes: Notes | None = None) -> Manifest:
    books = statistics_of(np.zeros((rows, 1), np.uint16), [{"reason": "no caption"}] * rejects, notes=notes)
    failures = {f"{number}.tar": "torn" for number in range(failed)}
    beside = {"picture outside of the shards": ["a.png", "b.png"]} if notes else {}
    sums = Sums(FINGERPRINT.codebook_size)
    sums.add("a.tar", books)
    return write_manifest("in", sums, failures, FINGERPRINT, open_storage(folder), beside)


@pytest.mark.parametrize(
    ("rows", "rejects", "failed", "code", "message"),
    [
        (0, 5, 0, 3, "none of its 5 samples can be used: 5 x no caption"),
        (0, 0, 0, 3, "none of its 0 samples can be used: its shards are empty"),
        (0, 5, 1, 4, "1 shards could not be read"),
        (1, 0, 1, 4, "1 shards could not be read"),
    ],
)
def test_a_corpus_of_which_nothing_can_be_used_does_not_end_well(
    tmp_path: Path, rows: int, rejects: int, failed: int, code: int, message: str
) -> None:
    whole = manifest(tmp_path / "whole", 1, 99, 0)
    check_shards({"whole": whole})
    with pytest.raises(Exception, match=message) as caught:
        check_shards({"whole": whole, "other": manifest(tmp_path / "other", rows, rejects, failed)})
    assert exit_code_of(caught.value) == code


def test_the_manifest_counts_what_is_ignored_and_has_nothing_new_where_nothing_is(tmp_path: Path) -> None:
    plain = manifest(tmp_path / "plain", 1, 1, 0)
    stored = open_storage(tmp_path / "plain").text("manifest.json")
    assert stored and not {"ignored", "not_numbers"} & set(stored.split('"'))
    assert plain.ignored == {}
    notes = Notes(files_named={"a.png", "shard.txt"})
    notes.ignored.update({"folder": 3})
    notes.not_numbers.update({"score": 4})
    full = manifest(tmp_path / "full", 1, 1, 0, notes)
    assert full.ignored == {"folder": 3, "picture outside of the shards": 1} and full.not_numbers == {"score": 4}
    assert asdict(full) | {"ignored": {}, "not_numbers": {}} == asdict(plain)


def test_links_out_of_a_corpus_are_told_of(tmp_path: Path) -> None:
    """They are followed, as the cache of Hugging Face's hub needs it."""
    write_members(tmp_path / "blobs" / "1", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    (tmp_path / "in" / "more").mkdir(parents=True)
    (tmp_path / "in" / "more" / "a.tar").symlink_to(tmp_path / "blobs" / "1")
    corpus = corpus_in(tmp_path / "in")
    assert [sample.key for sample in corpus.read("more/a.tar")] == ["0"]
    assert "1 links lead out of" in said_of_links(corpus) and "blobs/1'" in said_of_links(corpus)
    (tmp_path / "in" / "b.tar").symlink_to("more/a.tar")
    assert said_of_links(corpus).startswith("2 links"), "one that ends outside by another link"
    assert said_of_links(corpus_in(tmp_path / "blobs", layout="webdataset")) == ""
