"""A job that goes on needs no file of each shard that is done, and closes the same books."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.corpora import corpus_in
from tests.support.tokens import FINGERPRINT, statistics_of
from tokenization.files.local_folder import LocalFolder
from tokenization.job.books import Books
from tokenization.job.one_pass import tasks_of
from tokenization.table.manifest import Manifest, write_manifest
from tokenization.table.shard_statistics import (
    Notes,
    ShardStatistics,
    statistics_name,
    stored_values,
    token_name,
    write_json,
)
from tokenization.table.sums import SUMS_FILE, Sums

SHARDS = [f"part/{number:03d}.tar" for number in range(30)]
BESIDE = {"picture outside of the shards": ["0.png", "1.png", "other.png"]}


class Counting(LocalFolder):
    """Remembers which small files were read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[str] = []

    def text(self, name: str) -> str | None:
        self.asked.append(name)
        return super().text(name)


def ended(number: int) -> ShardStatistics:
    codes = np.full((number, 2), (number, 1))
    rejects = [{"reason": "bad picture"}] * (number % 3)
    notes = Notes(files_named={f"{number % 2}.png"})
    notes.ignored["folder"] += number % 2
    return statistics_of(codes, rejects, number, notes)


def write_shard(storage: LocalFolder, number: int) -> ShardStatistics:
    one = ended(number)
    write_json(storage, statistics_name(SHARDS[number]), stored_values(one))
    storage.write(token_name(SHARDS[number]), Path.touch)
    return one


def opened(storage: LocalFolder, shards: list[str] = SHARDS) -> Books:
    return Books(storage, shards, 0, FINGERPRINT.codebook_size)


def closed(storage: LocalFolder, sums: Sums) -> Manifest:
    return write_manifest("in", sums, {}, FINGERPRINT, storage, BESIDE)


@pytest.fixture
def whole(tmp_path: Path) -> Manifest:
    """The manifest of all shards, added up in one go."""
    sums = Sums(FINGERPRINT.codebook_size)
    for number, shard in enumerate(SHARDS):
        sums.add(shard, ended(number))
    return closed(LocalFolder(tmp_path / "whole"), sums)


def test_an_interrupted_job_reads_only_what_its_sums_lack(tmp_path: Path, whole: Manifest) -> None:
    storage = Counting(tmp_path / "tokens")
    books = opened(storage)
    for number in range(20):
        books.add(SHARDS[number], write_shard(storage, number))
    books.store()
    for number in range(20, 23):  # it is killed before it stores the sums again
        write_shard(storage, number)
    storage.asked.clear()
    again = opened(storage)
    assert len(again.done) == 23 and again.pending(SHARDS) == SHARDS[23:]
    assert sorted(storage.asked) == [*map(statistics_name, SHARDS[20:23]), SUMS_FILE]
    for number in range(23, 30):
        again.add(SHARDS[number], write_shard(storage, number))
    assert closed(storage, again.sums) == whole
    assert whole.ignored == {"folder": 15, "picture outside of the shards": 1} and whole.rows_out == sum(range(30))


def take_off_a_token_shard(storage: LocalFolder) -> list[str]:
    storage.delete(token_name(SHARDS[7]))
    return SHARDS


def take_off_an_input_shard(storage: LocalFolder) -> list[str]:
    return SHARDS[:7] + SHARDS[8:]


@pytest.mark.parametrize("change", [take_off_a_token_shard, take_off_an_input_shard])
def test_sums_of_a_shard_that_is_gone_are_made_again(
    tmp_path: Path, whole: Manifest, change: Callable[[LocalFolder], list[str]]
) -> None:
    """Counts of codes in use cannot be taken off again."""
    storage = Counting(tmp_path)
    books = opened(storage)
    for number, shard in enumerate(SHARDS):
        books.add(shard, write_shard(storage, number))
    books.store()
    shards = change(storage)
    again = opened(storage, shards)
    assert SHARDS[7] not in again.done and len(again.done) == 29
    made = closed(storage, again.sums)
    assert made == replace(whole, shards=29, **differences(whole, ended(7)))


def differences(whole: Manifest, one: ShardStatistics) -> dict:
    return {
        "rows_in": whole.rows_in - one.rows_out - sum(one.rejects.values()),
        "rows_out": whole.rows_out - one.rows_out,
        "rows_rejected": whole.rows_rejected - sum(one.rejects.values()),
        "rejects_by_reason": {"bad picture": whole.rows_rejected - sum(one.rejects.values())},
        "truncated_captions": whole.truncated_captions - one.truncated_captions,
        "codes_in_use": whole.codes_in_use - 1,
        "ignored": whole.ignored | {"folder": whole.ignored["folder"] - one.ignored["folder"]},
    }


def test_tokens_of_earlier_code_are_gone_on_with(tmp_path: Path, whole: Manifest) -> None:
    """It wrote no sums, and a token shard without statistics does not count."""
    storage = LocalFolder(tmp_path)
    for number in range(30):
        write_shard(storage, number)
    assert closed(storage, opened(storage).sums) == whole
    storage.delete(statistics_name(SHARDS[3]))
    assert opened(storage).pending(SHARDS) == [SHARDS[3]]


def test_a_shard_may_lie_in_a_folder_of_the_books_name(tmp_path: Path) -> None:
    storage = LocalFolder(tmp_path)
    shards = ["books/a.tar", "b.tar"]
    opened(storage, shards).add("books/a.tar", ended(1))
    write_json(storage, statistics_name("books/a.tar"), stored_values(ended(1)))
    storage.write(token_name("books/a.tar"), Path.touch)
    assert opened(storage, shards).pending(shards) == ["b.tar"]


def test_a_corpus_of_many_shards_is_opened_by_a_look_at_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On S3 each look is a request."""
    asked: list[str] = []
    size = LocalFolder.size

    def counted(folder: LocalFolder, name: str) -> int:
        asked.append(name)
        return size(folder, name)

    monkeypatch.setattr(LocalFolder, "size", counted)
    for number in range(200):
        (tmp_path / f"{number:03d}.tar").write_bytes(bytes(10240))
    assert len(corpus_in(tmp_path).shards) == 200 and len(asked) < 10


def test_a_million_shards_are_few_tasks_and_few_shards_are_one_each() -> None:
    assert tasks_of(SHARDS, 2) == [[shard] for shard in SHARDS]
    many = [f"{number}" for number in range(10**6)]
    for readers in (2, 1024, 4096):
        tasks = tasks_of(many, readers)
        assert [shard for task in tasks for shard in task] == many and len(tasks) < 30_000
        assert len(tasks[0]) > 100 and {len(task) for task in tasks[-max(readers, 512) :]} == {1}, "none ends late"


def test_a_shard_whose_writer_died_before_it_could_tell_is_found(tmp_path: Path) -> None:
    """Else a job would read it again, or a task of several shards would leave it out and never end."""
    storage = LocalFolder(tmp_path)
    books = opened(storage)
    books.add(SHARDS[0], write_shard(storage, 0))
    write_shard(storage, 1)
    write_shard(storage, 2)
    storage.delete(statistics_name(SHARDS[2]))
    books.look_again(books.pending(SHARDS))
    assert books.done == set(SHARDS[:2]) and books.sums.rows_out == 1 and books.sums.num_shards == 2
