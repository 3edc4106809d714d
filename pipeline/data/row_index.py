"""The row index: the rows of a token table that a stage uses."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

MADE_FROM_KEY, TOO_LONG_KEY, NOT_NUMBERS_KEY = b"mars.made_from", b"mars.too_long", b"mars.not_numbers"
SHA256_KEY = b"mars.sha256"


COLUMNS = pa.schema(
    [("shard", pa.large_string()), ("content", pa.string()), ("rows", pa.int64()), ("chosen", pa.large_binary())]
)


@dataclass(frozen=True)
class RowIndex:
    """The rows of each shard that a stage uses. An interleaved document is represented by its first picture's row.

    It takes one bit per row: 25 MB for 200M rows. If it is mapped from a file, a process reads of it what it uses, and
    it is pickled as the file's path.

    Attributes:
        by_shard: a row for each shard, sorted by `shard`, its path relative to the token folder. `content` is a hash of
            its rows, see `read_content`; `rows` counts the chosen ones; `chosen` has them as bits, the first row as
            the highest bit of the first byte.
        num_too_long: documents that were left out because they have too many ids.
        not_numbers: by column, values that a query compares with a number although they are not numbers; they count as
            missing.
        file: the file that it is mapped from, or None.
        stored_sha256: the result of `sha256` that the file has; empty without a file.
    """

    by_shard: pa.RecordBatch
    num_too_long: int = 0
    not_numbers: dict[str, int] = field(default_factory=dict)
    file: Path | None = None
    stored_sha256: str = ""

    @classmethod
    def of(
        cls,
        shards: list[str],
        rows: Iterable[np.ndarray],
        num_too_long: int = 0,
        contents: tuple[str, ...] = (),
        not_numbers: dict[str, int] | None = None,
    ) -> "RowIndex":
        """Makes an index from each shard's row numbers, in ascending order."""
        chosen, counts = [], []
        for numbers in rows:
            bits = np.zeros(int(numbers[-1]) + 1 if len(numbers) else 0, bool)
            bits[numbers] = True
            chosen.append(np.packbits(bits).tobytes())
            counts.append(len(numbers))
        values = [shards, contents or [None] * len(shards), counts, chosen]
        arrays = [pa.array(value, column.type) for value, column in zip(values, COLUMNS, strict=True)]
        return cls(pa.RecordBatch.from_arrays(arrays, schema=COLUMNS), num_too_long, not_numbers or {})

    @classmethod
    def mapped(cls, file: Path) -> "RowIndex":
        """Maps the index that `write` wrote. A file that is not readable raises `pa.ArrowInvalid` or `OSError`."""
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        metadata = reader.schema.metadata or {}
        if not reader.schema.equals(COLUMNS) or SHA256_KEY not in metadata:
            raise pa.ArrowInvalid(f"{str(file)!r} is no row index")
        not_numbers = json.loads(metadata[NOT_NUMBERS_KEY])
        return cls(reader.get_batch(0), int(metadata[TOO_LONG_KEY]), not_numbers, file, metadata[SHA256_KEY].decode())

    def write(self, file: Path, made_from: bytes) -> None:
        """Writes the index to a file, with a hash of what it was made from."""
        metadata = {
            MADE_FROM_KEY: made_from,
            TOO_LONG_KEY: str(self.num_too_long),
            NOT_NUMBERS_KEY: json.dumps(self.not_numbers),
            SHA256_KEY: self.sha256(),
        }
        with pa.ipc.new_file(str(file), COLUMNS.with_metadata(metadata)) as writer:
            writer.write_batch(self.by_shard)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles an index in a file as the file's path: it grows with the corpus, and every rank gets it."""
        if self.file:
            return RowIndex.mapped, (self.file,)
        return RowIndex, (self.by_shard, self.num_too_long, self.not_numbers)

    @property
    def num_shards(self) -> int:
        return len(self.by_shard)

    @property
    def shards(self) -> list[str]:
        """The paths of all shards."""
        names: list[str] = self.by_shard["shard"].to_pylist()
        return names

    @cached_property
    def counts(self) -> np.ndarray:
        """Chosen rows of each shard, int64."""
        counts: np.ndarray = self.by_shard["rows"].to_numpy()
        return counts

    def shard(self, number: int) -> str:
        """The path of the `number`-th shard."""
        return str(self.by_shard["shard"][number].as_py())

    def rows(self, shard: int) -> np.ndarray:
        """The row numbers of the `shard`-th shard, ascending, int64."""
        return np.flatnonzero(np.unpackbits(np.frombuffer(self.by_shard["chosen"][shard].as_buffer(), np.uint8)))

    def sha256(self) -> str:
        """A hash of the selection and of the content of the shards' rows."""
        return self.stored_sha256 or self._sha256

    @cached_property
    def _sha256(self) -> str:
        contents = [content for content in self.by_shard["content"].to_pylist() if content is not None]
        digest = hashlib.sha256("\n".join([*self.shards, *contents]).encode())
        for bits in self.by_shard["chosen"]:
            digest.update(len(bits.as_buffer()).to_bytes(8, "little"))
            digest.update(bits.as_buffer())
        return digest.hexdigest()


@dataclass(frozen=True)
class SourceRows:
    """One source of a stage.

    Attributes:
        name: the corpus's name.
        tokens: its token folder or URL.
        index: its rows.
        weight: its weight among the sources.
        lengths: the file with the rows' lengths, which all workers can map; None to read them with the rows.
    """

    name: str
    tokens: str | Path
    index: RowIndex
    weight: float = 1.0
    lengths: Path | None = None


def rows_sha256(sources: tuple[SourceRows, ...]) -> str:
    """A hash of the selections of a stage and their order."""
    return hashlib.sha256(
        "\n".join(f"{source.name} {source.index.sha256()}" for source in sources).encode()
    ).hexdigest()
