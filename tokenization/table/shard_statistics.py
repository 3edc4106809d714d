"""What became of the rows of one shard: its counts, in a file of their own, and the names of its files."""

import hashlib
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tokenization.corpora.tar import TAR_SUFFIXES
from tokenization.files.storage import Storage

OPTIONAL: dict[str, Any] = {"ignored": {}, "not_numbers": {}, "caption_seed": None, "files_named": ""}
"""Keys that are in the files only where they have another value."""
HASH = np.dtype("<u8")
STATISTICS_FOLDER, REJECTS_FOLDER = "books", "rejects"


@dataclass
class Notes:
    """Remarks in the statistics of a shard, besides its rows and its rejects.

    Attributes:
        ignored: files and members of an archive that are part of no sample, by the reason.
        not_numbers: by column, values that `hr_where` compares with a number and that are none.
        caption_seed: the seed by which captions were taken of several; None if none was.
        files_named: names of the files beside the shards that the shard's rows name, each once.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    not_numbers: Counter[str] = field(default_factory=Counter)
    caption_seed: int | None = None
    files_named: set[str] = field(default_factory=set)

    def add(self, other: "Notes") -> None:
        self.ignored.update(other.ignored)
        self.not_numbers.update(other.not_numbers)
        self.files_named |= other.files_named
        if other.caption_seed is not None:
            self.caption_seed = other.caption_seed


@dataclass(frozen=True)
class ShardStatistics:
    """Counts of one shard.

    Attributes:
        rows_out, rows_hr: rows written, and how many of them have codes of the high resolution.
        rejects: number of rejects by reason.
        truncated_captions: captions that were cut.
        codes_in_use: one bit per code, packed, base64.
        ignored, not_numbers, caption_seed: see `Notes` and `OPTIONAL`.
        files_named: `name_hashes` of the files in `Notes`, base64.
    """

    rows_out: int
    rows_hr: int
    rejects: dict[str, int]
    truncated_captions: int
    codes_in_use: str
    ignored: dict[str, int] = field(default_factory=dict)
    not_numbers: dict[str, int] = field(default_factory=dict)
    caption_seed: int | None = None
    files_named: str = ""


def token_name(shard: str) -> str:
    """Path of the token shard of an input shard: the same path with `.parquet`."""
    return f"{_stem(shard)}.parquet"


def rejects_name(shard: str) -> str:
    """Path of the file with a shard's rejects, if it has any: JSON lines with key, reason and message."""
    return f"{REJECTS_FOLDER}/{_stem(shard)}.jsonl"


def statistics_name(shard: str) -> str:
    return f"{STATISTICS_FOLDER}/{_stem(shard)}.json"


def _stem(shard: str) -> str:
    """The shard's path without its ending. One that is packed, or has capitals, keeps it: there may be another of the
    same name."""
    name = shard.rpartition("/")[2]
    dot = name.rfind(".")
    suffix = name[dot:] if 0 < dot < len(name) - 1 else ""
    is_packed = shard.lower().endswith(TAR_SUFFIXES) and suffix.lower() != ".tar"
    return shard if is_packed or suffix != suffix.lower() or not suffix else shard[: -len(suffix)]


def is_done(output: Storage, shard: str) -> bool:
    """True if the shard's tokens and statistics are there."""
    return output.exists(token_name(shard)) and output.exists(statistics_name(shard))


class ShardCounts:
    """Counts the rows of a shard part by part.

    Args:
        codebook_size: number of codes.
    """

    def __init__(self, codebook_size: int) -> None:
        self._rows = self._rows_hr = self._truncated = 0
        self._rejects, self._notes, self._used = Counter[str](), Notes(), np.zeros(codebook_size, bool)

    def add(
        self, codes: np.ndarray, rows_hr: int, truncated: int, rejects: Iterable[dict[str, str]], notes: Notes
    ) -> None:
        """Counts a part: `codes` [n, N] of its rows, how many of them have the high resolution, captions that were cut,
        its rejects, and what else was noted."""
        self._rows, self._rows_hr = self._rows + len(codes), self._rows_hr + rows_hr
        self._truncated += truncated
        self._rejects.update(reject["reason"] for reject in rejects)
        self._used[codes] = True
        self._notes.add(notes)

    @property
    def num_rejects(self) -> int:
        """The number of rejects."""
        return self._rejects.total()

    def statistics(self) -> ShardStatistics:
        """The counts of all parts."""
        notes = self._notes
        return ShardStatistics(
            rows_out=self._rows,
            rows_hr=self._rows_hr,
            rejects=dict(self._rejects),
            truncated_captions=self._truncated,
            codes_in_use=b64encode(np.packbits(self._used).tobytes()).decode(),
            ignored=dict(sorted(notes.ignored.items())),
            not_numbers=dict(sorted(notes.not_numbers.items())),
            caption_seed=notes.caption_seed,
            files_named=b64encode(name_hashes(notes.files_named).tobytes()).decode(),
        )


def name_hash(name: str) -> bytes:
    """The first 8 bytes of the name's blake2b."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=HASH.itemsize).digest()


def name_hashes(names: Iterable[str]) -> np.ndarray:
    """`name_hash` of each name, ascending: `HASH` [n]."""
    return np.sort(np.frombuffer(b"".join(map(name_hash, names)), HASH))


def stored_values(counts: Any) -> dict[str, Any]:
    """The values of a dataclass of counts for a file. Optional ones are left out if they are empty."""
    return {name: value for name, value in asdict(counts).items() if name not in OPTIONAL or value != OPTIONAL[name]}


def write_json(output: Storage, name: str, value: Any, indent: int | None = None) -> None:
    """Writes a JSON file atomically."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    output.write(name, lambda path: path.write_text(text, encoding="utf-8"))


def read_shard_statistics(output: Storage, shard: str) -> ShardStatistics | None:
    """The counts of a shard; None if there are none."""
    text = output.text(statistics_name(shard))
    if text is None:
        return None
    values = json.loads(text)
    values.pop("pictures_named", None)  # of earlier code: a count, which does not tell whether files are the same
    return ShardStatistics(**values)
