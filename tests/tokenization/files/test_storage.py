"""Folders in S3 behave as local ones do, also while the service fails."""

import json
import pickle
from functools import partial
from pathlib import Path

import pytest

from tests.support.pictures import noise_png, write_tar
from tests.support.s3 import BUCKET, FaultyS3
from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus
from tokenization.errors import InputError
from tokenization.files.checks import check_apart
from tokenization.files.storage import Storage, open_storage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3: FaultyS3) -> Storage:
    return open_storage(tmp_path / "new" if request.param == "local" else f"s3://{BUCKET}/new")


def test_what_is_written_is_listed_read_and_deleted(storage: Storage) -> None:
    assert storage.names() == []
    for name in ("b.json", "a/c.json", "a/.hidden"):
        storage.write(name, partial(Path.write_text, data=name))
    again = pickle.loads(pickle.dumps(storage))
    assert again.names() == ["a/c.json", "b.json"]
    with again.local("a/c.json") as path:
        assert path.read_text() == "a/c.json"
    assert again.exists("b.json") and not again.exists("c.json")
    assert again.size("a/c.json") == 8 and again.read("a/c.json", 2, 6) == b"c.js"
    with pytest.raises(InputError, match=r"a/c\.json.* ends 2 bytes too early"):
        again.read("a/c.json", 5, 10)
    with pytest.raises(InputError, match=r"missing\.json"):
        again.read("missing.json", 0, 1)
    again.delete("b.json")
    again.delete("b.json")
    assert storage.names() == ["a/c.json"]
    with pytest.raises(InputError, match=r"gone"), storage.local("gone"):
        pass


def test_a_folder_goes_with_all_that_is_in_it_and_nothing_else(storage: Storage) -> None:
    for name in ("one/a", "one/b/c", "one/.hidden", "onetwo/a", "two/one/a"):
        storage.write(name, lambda path: path.write_text("x"))
    storage.delete_folder("one")
    storage.delete_folder("one")
    assert storage.names() == ["onetwo/a", "two/one/a"] and not storage.exists("one/.hidden")


def test_what_fails_while_it_is_written_is_not_there(storage: Storage) -> None:
    def fill(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        storage.write("a.json", fill)
    assert storage.names() == []


@pytest.mark.slow
def test_large_files_survive_failures_of_every_kind(s3: FaultyS3, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100_000  # four parts
    storage = open_storage(f"s3://{BUCKET}/deep/prefix")
    s3.fault_every = 4
    storage.write("large", lambda path: path.write_bytes(content))
    with storage.local("large") as path:
        assert path.read_bytes() == content
    assert storage.names() == ["large"]
    assert set(s3.injected) == set(s3.KINDS)


def test_a_corpus_in_s3_is_read_through_failures(s3: FaultyS3, tmp_path: Path) -> None:
    for number in range(3):
        samples = [(str(row), noise_png(row), {"caption": "x"}) for row in range(4)]
        write_tar(tmp_path / f"{number}.tar", samples)
        s3.client().upload_file(str(tmp_path / f"{number}.tar"), BUCKET, f"in/{number}.tar")
    s3.fault_every = 3
    corpus = Corpus(CorpusSource(f"s3://{BUCKET}/in"))
    assert (corpus.layout, corpus.shards) == ("webdataset", ["0.tar", "1.tar", "2.tar"])
    for shard in corpus.shards:
        assert [sample.picture for sample in corpus.read(shard)] == [noise_png(row) for row in range(4)]
    assert sum(s3.injected.values()) >= 2


def test_a_picture_folder_in_s3(s3: FaultyS3) -> None:
    client = s3.client()
    for row in range(3):
        client.put_object(Bucket=BUCKET, Key=f"f/{row}.png", Body=noise_png(row))
    lines = "\n".join(json.dumps({"file_name": f"{row}.png", "caption": "x"}) for row in range(3))
    client.put_object(Bucket=BUCKET, Key="f/metadata.jsonl", Body=lines.encode())
    corpus = Corpus(CorpusSource(f"s3://{BUCKET}/f"))
    assert [sample.picture for sample in corpus.read("000000")] == [noise_png(row) for row in range(3)]


def test_a_bucket_that_is_not_there_and_other_schemes_are_named(s3: FaultyS3) -> None:
    with pytest.raises(InputError, match=r"s3://nobody/.*NoSuchBucket"):
        open_storage("s3://nobody/here").names()
    with pytest.raises(InputError, match=r"names no bucket"):
        open_storage("s3://")
    with pytest.raises(InputError, match=r"'gs://x/y' is neither"):
        open_storage("gs://x/y")


def test_nothing_is_written_outside_of_a_folder(storage: Storage, s3: FaultyS3) -> None:
    for name in ("../up", "/etc/x", "a//b", "a/../../b", "."):
        if not str(storage).startswith("s3://"):
            with pytest.raises(InputError, match="is no name inside of"):
                storage.write(name, lambda path: path.write_text("x"))
    s3.client().put_object(Bucket=BUCKET, Key="new//etc/x.tar", Body=b"x")
    s3.client().put_object(Bucket=BUCKET, Key="new/../x.tar", Body=b"x")
    assert open_storage(f"s3://{BUCKET}/new").names() == []


@pytest.mark.parametrize(
    ("corpus", "output"),
    [("a", "a"), ("a", "a/tokens"), ("a/in", "a"), ("s3://b/in", "s3://b/in/out"), ("s3://b/in", "s3://b/in/")],
)
def test_tokens_do_not_go_into_the_corpus(corpus: str, output: str) -> None:
    with pytest.raises(InputError, match="lie in each other"):
        check_apart(corpus, output)
    check_apart(corpus, f"{corpus.rstrip('/')}-tokens")
