"""Folders in buckets behave as local ones do, also while the service fails."""

import json
import pickle
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from tests.support import gcs
from tests.support.faulty_server import ServerOf
from tests.support.pictures import noise_png, write_tar
from tests.support.s3 import BUCKET, FaultyS3
from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus
from tokenization.errors import InputError
from tokenization.files.checks import check_apart
from tokenization.files.storage import Storage, open_storage


@pytest.fixture(params=["local", "s3", "gs", "az"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, server_of: ServerOf) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "new")
    server_of(request.param)
    return open_storage(f"{request.param}://{BUCKET}/new")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_folder_goes_with_all_that_is_in_it_and_nothing_else(storage: Storage) -> None:
    for name in ("one/a", "one/b/c", "one/.hidden", "onetwo/a", "two/one/a"):
        storage.write(name, lambda path: path.write_text("x"))
    storage.delete_folder("one")
    storage.delete_folder("one")
    assert storage.names() == ["onetwo/a", "two/one/a"] and not storage.exists("one/.hidden")


@pytest.mark.slow
def test_what_fails_while_it_is_written_is_not_there(storage: Storage) -> None:
    def fill(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        storage.write("a.json", fill)
    assert storage.names() == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_large_files_survive_failures_of_every_kind(scheme: str, server_of: ServerOf) -> None:
    content = bytes(range(256)) * 100_000  # four parts
    server = server_of(scheme)
    storage = open_storage(f"{scheme}://{BUCKET}/deep/prefix")
    server.fault_every = 3
    storage.write("large", lambda path: path.write_bytes(content))
    with storage.local("large") as path:
        assert path.read_bytes() == content
    assert storage.names() == ["large"]
    assert set(server.injected) == set(server.KINDS)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_picture_folder_in_s3(s3: FaultyS3) -> None:
    client = s3.client()
    for row in range(3):
        client.put_object(Bucket=BUCKET, Key=f"f/{row}.png", Body=noise_png(row))
    lines = "\n".join(json.dumps({"file_name": f"{row}.png", "caption": "x"}) for row in range(3))
    client.put_object(Bucket=BUCKET, Key="f/metadata.jsonl", Body=lines.encode())
    corpus = Corpus(CorpusSource(f"s3://{BUCKET}/f"))
    assert [sample.picture for sample in corpus.read("000000")] == [noise_png(row) for row in range(3)]


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("s3", "NoSuchBucket"), ("gs", "404.*credentials"), ("az", "container does not exist.*AZURE_STORAGE_ACCOUNT")],
)
def test_a_bucket_that_is_not_there_is_named(scheme: str, said: str, server_of: ServerOf) -> None:
    server_of(scheme)
    with pytest.raises(InputError, match=rf"(?s){scheme}://nobody/.*{said}"):
        open_storage(f"{scheme}://nobody/here").names()
    with pytest.raises(InputError, match=rf"{scheme}://nobody/"):
        open_storage(f"{scheme}://nobody/here").write("a", lambda path: path.write_text("x"))
    with pytest.raises(InputError, match=r"names no bucket"):
        open_storage(f"{scheme}://")


def test_other_schemes_and_an_azure_without_an_account_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'abc://x/y' is neither a path nor in one of s3://, gs://, az://"):
        open_storage("abc://x/y")
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    with pytest.raises(InputError, match="'az://x' needs AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_CONNECTION_STRING"):
        open_storage("az://x/y").names()


@pytest.mark.slow
def test_of_those_who_swap_at_once_one_succeeds(storage: Storage) -> None:
    assert storage.text("owner") is None
    with ThreadPool(8) as pool:
        assert sum(pool.map(lambda me: storage.swap("owner", None, f"me {me}"), range(8))) == 1
    now = storage.text("owner")
    assert now is not None and not storage.swap("owner", None, "late") and not storage.swap("owner", "other", "late")
    with ThreadPool(8) as pool:
        assert sum(pool.map(lambda me: storage.swap("owner", now, f"next {me}"), range(8))) == 1
    assert str(storage.text("owner")).startswith("next")


def test_a_listing_of_several_pages_has_each_object_once(server_of: ServerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "PAGE", 10)
    server_of("gs")
    storage, names = open_storage(f"gs://{BUCKET}/new"), [f"{number % 7}/{number:03d}.tar" for number in range(95)]
    for name in names:
        storage.write(name, partial(Path.write_text, data="x"))
    assert storage.names() == sorted(names) == sorted(storage.sizes())


def test_versions_change_with_the_content_and_sizes_are_listed(storage: Storage) -> None:
    for name in ("a.json", "folder/b.json", "folder/c.json"):
        storage.write(name, partial(Path.write_text, data=name))
    before = storage.versions()
    storage.write("a.json", partial(Path.write_text, data="other!"))
    after = storage.versions()
    assert before.keys() == after.keys() and {name for name in after if after[name] != before[name]} == {"a.json"}
    assert storage.sizes() == {"a.json": 6, "folder/b.json": 13, "folder/c.json": 13}
    assert storage.listing(without=["folder/"]).names == ["a.json"]


def test_nothing_is_written_outside_of_a_folder(tmp_path: Path, s3: FaultyS3) -> None:
    for name in ("../up", "/etc/x", "a//b", "a/../../b", "."):
        with pytest.raises(InputError, match="is no name inside of"):
            open_storage(tmp_path / "new").write(name, lambda path: path.write_text("x"))
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
