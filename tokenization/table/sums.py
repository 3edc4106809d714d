"""The sums of shards' statistics, in one file: a job that goes on needs no file of each shard that is done."""

import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from tokenization.files.storage import Storage
from tokenization.table.shard_statistics import HASH, ShardStatistics, name_hash, name_hashes, write_json

SUMS_FILE = "sums.json"
UNSORTED = 1 << 20
"""How many hashes of files' names are collected before repeated ones are removed."""


class Sums:
    """Adds up the statistics of shards, and knows whose they are: eight bytes of memory a shard.

    Attributes:
        rows_out, rows_hr, truncated_captions, rejects, ignored, not_numbers: as in `ShardStatistics`.
        caption_seed: that of the shards that have one.
    """

    def __init__(self, codebook_size: int) -> None:
        self.rows_out = self.rows_hr = self.truncated_captions = 0
        self.rejects, self.ignored, self.not_numbers = Counter[str](), Counter[str](), Counter[str]()
        self.caption_seed: int | None = None
        self._shards, self._codes = bytearray(), np.zeros(codebook_size, bool)
        self._named: list[np.ndarray] = []

    def add(self, shard: str, one: ShardStatistics) -> None:
        self._shards += name_hash(shard)
        self._add_counts(one)

    def _add_counts(self, one: ShardStatistics) -> None:
        self.rows_out, self.rows_hr = self.rows_out + one.rows_out, self.rows_hr + one.rows_hr
        self.truncated_captions += one.truncated_captions
        self.rejects.update(one.rejects)
        self.ignored.update(one.ignored)
        self.not_numbers.update(one.not_numbers)
        self.caption_seed = self.caption_seed if one.caption_seed is None else one.caption_seed
        bits = np.frombuffer(b64decode(one.codes_in_use), np.uint8)
        self._codes |= np.unpackbits(bits, count=len(self._codes)).astype(bool)
        if one.files_named:
            self._named.append(_hashes(one.files_named))
            if sum(map(len, self._named[1:])) > UNSORTED:
                self._named = [self.files_named()]

    @property
    def num_shards(self) -> int:
        return len(self._shards) // HASH.itemsize

    def codes_in_use(self) -> int:
        """The number of codes that occur."""
        return int(self._codes.sum())

    def files_named(self) -> np.ndarray:
        """`name_hash` of each file that rows name, once, ascending: `HASH` [n]."""
        return np.unique(np.concatenate([np.zeros(0, HASH), *self._named]))

    def missing(self, shards: Iterable[str]) -> list[str] | None:
        """Those of these shards that are not added up; None if others are, too: they cannot be taken off again."""
        wanted, own = list(shards), np.sort(np.frombuffer(self._shards, HASH))
        if not np.isin(own, name_hashes(wanted)).all():
            return None
        inside = set(own.tolist())
        return [shard for shard in wanted if int.from_bytes(name_hash(shard), "little") not in inside]

    def add_stored(self, output: Storage) -> None:
        """Adds what the file has, if there is one."""
        if (text := output.text(SUMS_FILE)) is not None:
            values: dict[str, Any] = json.loads(text)
            self._shards += b64decode(values.pop("shards"))
            self._add_counts(ShardStatistics(**values))

    def store(self, output: Storage) -> None:
        """Writes the file."""
        values = {
            "shards": _text(np.sort(np.frombuffer(self._shards, HASH))),
            "rows_out": self.rows_out,
            "rows_hr": self.rows_hr,
            "rejects": self.rejects,
            "truncated_captions": self.truncated_captions,
            "codes_in_use": b64encode(np.packbits(self._codes).tobytes()).decode(),
            "ignored": self.ignored,
            "not_numbers": self.not_numbers,
            "caption_seed": self.caption_seed,
            "files_named": _text(self.files_named()),
        }
        write_json(output, SUMS_FILE, values)


def _hashes(text: str) -> np.ndarray:
    return np.frombuffer(b64decode(text), HASH)


def _text(hashes: np.ndarray) -> str:
    return b64encode(hashes.tobytes()).decode()
