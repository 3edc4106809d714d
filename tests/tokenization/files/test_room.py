"""A full disk is told of with the path, and what was there before stays as it was."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tests.support.s3 import BUCKET, FaultyS3
from tests.support.small_disk import small_disk
from tokenization.files.atomic_writing import append_whole, write_atomically
from tokenization.files.checks import unwritable
from tokenization.files.room import fullest, is_full
from tokenization.files.storage import open_storage

SIZE = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with small_disk(tmp_path / "disk", SIZE) as folder:
        yield folder


def fill_plainly(path: Path) -> None:
    path.write_bytes(b"x" * 2 * SIZE)


def fill_with_tensors(path: Path) -> None:
    save_file({"a": np.zeros(2 * SIZE, np.uint8)}, path)


def fill_with_rows(path: Path) -> None:
    table = pa.table({"a": [np.random.default_rng(0).bytes(2 * SIZE)]})
    pq.write_table(table, path, compression=None)


@pytest.mark.parametrize("fill", [fill_plainly, fill_with_tensors, fill_with_rows])
def test_a_file_that_does_not_fit_is_named_with_the_room(disk: Path, fill: Callable[[Path], None]) -> None:
    path = disk / "a"
    write_atomically(path, lambda partial: partial.write_text("before"))
    with pytest.raises(OSError) as caught:
        write_atomically(path, fill)
    line = unwritable(caught.value)
    assert line.startswith(f"{str(path)!r}: No space left on device: 1,0") and "and it needs more; make room" in line
    assert path.read_text() == "before" and [*disk.iterdir()] == [path]


def test_lines_that_do_not_fit_are_left_out_whole(disk: Path) -> None:
    path = disk / "lines"
    append_whole(path, "first\n")
    with pytest.raises(OSError) as caught:
        append_whole(path, "x" * 2 * SIZE)
    assert f"and it needs {2 * SIZE:,}" in unwritable(caught.value)
    assert path.read_text() == "first\n"
    append_whole(path, "second\n")


def test_the_temporary_folder_of_an_upload_is_named(disk: Path, s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(f"s3://{BUCKET}/x")
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(OSError) as caught:
        storage.write("big", fill_plainly)
    assert unwritable(caught.value).startswith(f"'{disk}/mars-bucket-") and storage.names() == []
    s3.client().put_object(Bucket=BUCKET, Key="x/big", Body=b"x" * 2 * SIZE)
    with pytest.raises(OSError) as caught, storage.local("big"):
        pass
    assert unwritable(caught.value).startswith(f"'{disk}/mars-bucket-") and not [*disk.iterdir()]


def test_a_full_disk_is_known_by_the_words_of_libraries(disk: Path) -> None:
    assert is_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_full(RuntimeError("No such file"))
    assert fullest([Path("/"), disk]) == disk
