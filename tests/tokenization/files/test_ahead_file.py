"""A file in S3 is read in pieces, ahead of its reader, and its size does not decide how much memory that takes."""

import io
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from tokenization.errors import InputError, OutageError
from tokenization.files import ahead_file
from tokenization.files.ahead_file import PIECE_BYTES, PIECES_AHEAD, AheadFile, StoredFile
from tokenization.files.local_folder import LocalFolder

CONTENT = bytes(range(251)) * 40


class Counting(LocalFolder):
    """Counts how often each piece is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked = Counter[int]()

    def read(self, name: str, start: int, stop: int) -> bytes:
        self.asked[start] += 1
        return super().read(name, start, stop)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(ahead_file, "PIECE_BYTES", 1000)
    (tmp_path / "file").write_bytes(CONTENT)
    return Counting(tmp_path)


def test_each_piece_is_fetched_once_and_the_content_is_the_file_s(storage: Counting) -> None:
    with io.BufferedReader(AheadFile(storage, "file"), 64) as file:
        parts = []
        while part := file.read(777):
            parts.append(part)
    assert b"".join(parts) == CONTENT
    assert set(storage.asked.values()) == {1} and len(storage.asked) == -(-len(CONTENT) // 1000)


def test_a_reader_may_go_back_and_ahead(storage: Counting) -> None:
    with io.BufferedReader(AheadFile(storage, "file"), 64) as file:
        for place in (9000, 0, 5123, 10_035):
            assert file.seek(place) == place and file.read(90) == CONTENT[place : place + 90]
        assert file.seek(0, io.SEEK_END) == len(CONTENT) and file.read(1) == b""


def test_an_outage_reaches_the_reader(storage: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(name: str, start: int, stop: int) -> bytes:
        raise OutageError("no answer")

    monkeypatch.setattr(storage, "read", read)
    with io.BufferedReader(AheadFile(storage, "file")) as file, pytest.raises(OutageError, match="no answer"):
        file.read(1)
    with pytest.raises(InputError, match="gone"):
        StoredFile(storage, "gone").open("rb")


def test_a_large_file_takes_the_memory_of_some_pieces() -> None:
    class Zeros(LocalFolder):
        def size(self, name: str) -> int:
            return 40 * PIECE_BYTES

        def read(self, name: str, start: int, stop: int) -> bytes:
            return bytes(stop - start)

    tracemalloc.start()
    with io.BufferedReader(AheadFile(Zeros(Path()), "file")) as file:
        while file.read(1 << 16):
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (PIECES_AHEAD + 3) * PIECE_BYTES
