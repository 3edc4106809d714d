"""Statistics of a token dataset, counted a shard at a time and then added up."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenization.files.storage import Storage

ROW_NUMBERS = (".parquet/", ".jsonl/")
"""Substrings of ids whose key is only a row or line number. Such keys are not compared across shards."""


@dataclass
class TokenStatistics:
    """Counts of some shards.

    Attributes:
        shards, rows, rows_hr: shards, rows, and rows with codes of the high resolution.
        codes, codes_hr: number of occurrences of each code, int64 [codebook].
        captions: by language, number of captions of each length in ids.
        truncated: captions that were cut, by language.
        keys, pictures: a hash of each row's key within its shard, and of its codes, uint64.
    """

    codes: np.ndarray
    codes_hr: np.ndarray
    shards: int = 0
    rows: int = 0
    rows_hr: int = 0
    captions: dict[str, Counter[int]] = field(default_factory=dict)
    truncated: Counter[str] = field(default_factory=Counter)
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    pictures: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def summary(self) -> dict[str, Any]:
        """The figures that `inspect_tokens` shows, as plain numbers and dicts of them."""
        high = {"codes_in_use_hr": int((self.codes_hr > 0).sum()), "perplexity_hr": perplexity(self.codes_hr)}
        return {
            "shards": self.shards,
            "rows": self.rows,
            "rows_hr": self.rows_hr,
            "codebook_size": len(self.codes),
            "codes_in_use": int((self.codes > 0).sum()),
            "perplexity": perplexity(self.codes),
            **(high if self.rows_hr else {}),
            "captions": {
                name: _lengths(counts) | {"truncated": self.truncated[name]}
                for name, counts in sorted(self.captions.items())
            },
            "keys_in_several_shards": _repeated(self.keys),
            "rows_with_the_codes_of_another": _repeated(self.pictures),
        }


def statistics_of_shard(storage: Storage, name: str, codebook_size: int) -> TokenStatistics:
    with storage.local(name) as path:
        table = pq.read_table(path, columns=["sample_id", "codes", "codes_hr", "captions"]).combine_chunks()
    captions: dict[str, Counter[int]] = {}
    truncated: Counter[str] = Counter()
    for row in table["captions"].to_pylist():
        for caption in row:
            captions.setdefault(caption["lang"], Counter())[len(caption["ids"])] += 1
            truncated[caption["lang"]] += caption["truncated"]
    width = table.schema.field("codes").type.list_size
    codes = _flat(table["codes"]).reshape(-1, width)
    high = table["codes_hr"].drop_null()
    # The key is what follows the shard's path, which ends as the input shard's name did.
    keys = [
        identifier
        for identifier in table["sample_id"].to_pylist()
        if not any(mark in identifier.lower() for mark in ROW_NUMBERS)
    ]
    stem = name.rpartition(".")[0]
    return TokenStatistics(
        codes=np.bincount(codes.ravel(), minlength=codebook_size),
        codes_hr=np.bincount(_flat(high), minlength=codebook_size),
        shards=1,
        rows=len(table),
        rows_hr=len(high),
        captions=captions,
        truncated=truncated,
        keys=_hashes(key.removeprefix(stem).partition("/")[2].encode() for key in keys),
        pictures=_hashes(line.tobytes() for line in codes),
    )


def add_up(parts: Iterable[TokenStatistics]) -> TokenStatistics:
    """The sum of at least one part."""
    remaining = iter(parts)
    total = next(remaining)
    keys, pictures = [total.keys], [total.pictures]
    for part in remaining:
        total.codes = total.codes + part.codes  # not in place: arrays from Ray are read-only
        total.codes_hr = total.codes_hr + part.codes_hr
        total.shards, total.rows, total.rows_hr = (
            total.shards + part.shards,
            total.rows + part.rows,
            total.rows_hr + part.rows_hr,
        )
        for name, counts in part.captions.items():
            total.captions.setdefault(name, Counter()).update(counts)
        total.truncated.update(part.truncated)
        keys.append(part.keys)
        pictures.append(part.pictures)
    return replace(total, keys=np.concatenate(keys), pictures=np.concatenate(pictures))


def perplexity(counts: np.ndarray) -> float:
    """exp of the entropy of the codes' distribution: the number of equally frequent codes with the same entropy."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(share * np.log(share)).sum()))


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    flat: np.ndarray = array.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return flat


def _hashes(contents: Any) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(digests, np.uint64)


def _repeated(hashes: np.ndarray) -> int:
    """Number of hashes that repeat an earlier one."""
    return len(hashes) - len(np.unique(hashes))


def _lengths(counts: Counter[int]) -> dict[str, float]:
    lengths = np.repeat(list(counts.keys()), list(counts.values()))
    at = np.percentile(lengths, [50, 95])
    return {
        "captions": len(lengths),
        "mean_ids": float(lengths.mean()),
        "median_ids": float(at[0]),
        "p95_ids": float(at[1]),
        "max_ids": int(lengths.max()),
    }
