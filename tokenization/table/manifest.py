"""Statistics of each shard, and the manifest with their sums: the rows that were written, and those rejected."""

import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from tokenization.errors import InputError
from tokenization.files.storage import Storage
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint

SETTINGS_FILE = "tokenization.json"
"""File with the corpus and the fingerprint of all tokens in the folder."""
STATISTICS_FOLDER, REJECTS_FOLDER = "books", "rejects"


@dataclass(frozen=True)
class ShardStatistics:
    """Counts of one shard.

    Attributes:
        rows_out, rows_hr: rows written, and how many of them have codes of the high resolution.
        rejects: number of rejects by reason.
        truncated_captions: captions that were cut.
        codes_in_use: one bit per code, packed, base64.
    """

    rows_out: int
    rows_hr: int
    rejects: dict[str, int]
    truncated_captions: int
    codes_in_use: str


@dataclass(frozen=True)
class Manifest:
    """Counts of a corpus: `rows_in == rows_out + rows_rejected`. Failed shards are listed separately."""

    corpus: str
    fingerprint: dict[str, Any]
    shards: int
    failed_shards: dict[str, str]
    rows_in: int
    rows_out: int
    rows_hr: int
    rows_rejected: int
    rejects_by_reason: dict[str, int]
    truncated_captions: int
    codes_in_use: int


def token_name(shard: str) -> str:
    """Path of the token shard of an input shard: the same path with `.parquet`."""
    return str(PurePosixPath(shard).with_suffix(".parquet"))


def rejects_name(shard: str) -> str:
    """Path of the file with a shard's rejects, if it has any: JSON lines with key, reason and message."""
    return f"{REJECTS_FOLDER}/{PurePosixPath(shard).with_suffix('.jsonl')}"


def statistics_name(shard: str) -> str:
    return f"{STATISTICS_FOLDER}/{PurePosixPath(shard).with_suffix('.json')}"


def shard_statistics(rows: list[dict[str, Any]], rejects: list[dict[str, str]], codebook_size: int) -> ShardStatistics:
    used = np.zeros(codebook_size, bool)
    for row in rows:
        used[row["codes"]] = True
    return ShardStatistics(
        rows_out=len(rows),
        rows_hr=sum(row.get("codes_hr") is not None for row in rows),
        rejects=dict(Counter(reject["reason"] for reject in rejects)),
        truncated_captions=sum(caption["truncated"] for row in rows for caption in row["captions"]),
        codes_in_use=b64encode(np.packbits(used).tobytes()).decode(),
    )


def write_manifest(
    corpus: str,
    statistics: Iterable[ShardStatistics],
    failed: dict[str, str],
    fingerprint: Fingerprint,
    output: Storage,
) -> Manifest:
    """Adds up the statistics of all shards and writes the manifest."""
    reasons: Counter[str] = Counter()
    used = np.zeros(fingerprint.codebook_size, bool)
    shards = rows_out = rows_hr = truncated = 0
    for one in statistics:
        shards, rows_out, rows_hr = shards + 1, rows_out + one.rows_out, rows_hr + one.rows_hr
        truncated += one.truncated_captions
        reasons.update(one.rejects)
        bits = np.unpackbits(np.frombuffer(b64decode(one.codes_in_use), np.uint8), count=len(used))
        used |= bits.astype(bool)
    rejected = sum(reasons.values())
    manifest = Manifest(
        corpus=corpus,
        fingerprint=asdict(fingerprint),
        shards=shards,
        failed_shards=failed,
        rows_in=rows_out + rejected,
        rows_out=rows_out,
        rows_hr=rows_hr,
        rows_rejected=rejected,
        rejects_by_reason=dict(sorted(reasons.items())),
        truncated_captions=truncated,
        codes_in_use=int(used.sum()),
    )
    write_json(output, MANIFEST_FILE, asdict(manifest), indent=2)
    return manifest


def check_or_record_settings(output: Storage, corpus: dict[str, Any], fingerprint: Fingerprint) -> None:
    """Records the corpus (`Corpus.description`) and the fingerprint of a folder of tokens, or checks them.

    Raises:
        InputError: the folder was begun with another corpus or fingerprint.
    """
    wanted: dict[str, Any] = {"corpus": corpus, "fingerprint": asdict(fingerprint)}
    if output.exists(SETTINGS_FILE):
        with output.local(SETTINGS_FILE) as path:
            begun = json.loads(path.read_text("utf-8"))
        if other := _differences(begun["corpus"], corpus):
            raise InputError(
                f"{str(output)!r} holds tokens of another corpus: {'; '.join(other)}; choose another --output or "
                f"--root (where the corpus has only moved, write its new url into {SETTINGS_FILE} there)"
            )
        other = _differences(begun["fingerprint"], wanted["fingerprint"])
        if other:
            raise InputError(
                f"{str(output)!r} holds tokens made with another {'; '.join(other)}; choose another --output or "
                "--root, or delete that folder"
            )
    else:
        write_json(output, SETTINGS_FILE, wanted, indent=2)


def write_json(output: Storage, name: str, value: Any, indent: int | None = None) -> None:
    """Writes a JSON file atomically."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    output.write(name, lambda path: path.write_text(text, encoding="utf-8"))


def read_shard_statistics(output: Storage, shard: str) -> ShardStatistics:
    with output.local(statistics_name(shard)) as path:
        return ShardStatistics(**json.loads(path.read_text("utf-8")))


def _differences(begun: dict[str, Any], wanted: dict[str, Any], within: str = "") -> list[str]:
    """Lists every value that differs, as `name (was, not wanted)`."""
    found = []
    for name in sorted(begun.keys() | wanted.keys()):
        was, now = begun.get(name), wanted.get(name)
        if isinstance(was, dict) and isinstance(now, dict):
            found += _differences(was, now, f"{within}{name}.")
        elif was != now:
            found.append(f"{within}{name} ({was!r}, not {now!r})")
    return found
