"""Statistics of each shard, and the manifest with their sums: the rows that were written, and those rejected."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tokenization.corpora.tar import TAR_SUFFIXES
from tokenization.errors import InputError
from tokenization.files.places import is_same_place, stored_place
from tokenization.files.storage import Storage
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint

OPTIONAL: dict[str, Any] = {"ignored": {}, "not_numbers": {}, "caption_seed": None, "files_named": ""}
"""Keys that are in the files only where they have another value."""
HASH = np.dtype("<u8")
SETTINGS_FILE = "tokenization.json"
"""File with the corpus and the fingerprint of all tokens in the folder."""
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


@dataclass(frozen=True)
class Manifest:
    """Counts of a corpus: `rows_in == rows_out + rows_rejected`. Failed shards are listed separately.

    Attributes:
        ignored: files beside the shards, and members of archives, that are part of no sample, by the reason.
        not_numbers: see `Notes`. Both are `OPTIONAL`.
    """

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
    ignored: dict[str, int] = field(default_factory=dict)
    not_numbers: dict[str, int] = field(default_factory=dict)


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
    suffix = PurePosixPath(shard).suffix
    is_packed = shard.lower().endswith(TAR_SUFFIXES) and suffix.lower() != ".tar"
    return shard if is_packed or suffix != suffix.lower() else str(PurePosixPath(shard).with_suffix(""))


def shard_statistics(
    rows: list[dict[str, Any]], rejects: list[dict[str, str]], notes: Notes, codebook_size: int
) -> ShardStatistics:
    used = np.zeros(codebook_size, bool)
    for row in rows:
        used[row["codes"]] = True
    return ShardStatistics(
        rows_out=len(rows),
        rows_hr=sum(row.get("codes_hr") is not None for row in rows),
        rejects=dict(Counter(reject["reason"] for reject in rejects)),
        truncated_captions=sum(caption["truncated"] for row in rows for caption in row["captions"]),
        codes_in_use=b64encode(np.packbits(used).tobytes()).decode(),
        ignored=dict(sorted(notes.ignored.items())),
        not_numbers=dict(sorted(notes.not_numbers.items())),
        caption_seed=notes.caption_seed,
        files_named=b64encode(name_hashes(notes.files_named).tobytes()).decode(),
    )


def write_manifest(
    corpus: str,
    statistics: Iterable[ShardStatistics],
    failed: dict[str, str],
    fingerprint: Fingerprint,
    output: Storage,
    ignored: Mapping[str, Sequence[str]],
) -> Manifest:
    """Adds up the statistics of all shards and writes the manifest. `ignored` has the names of the files beside the
    shards, by the reason; those that rows name are taken off."""
    reasons: Counter[str] = Counter()
    all_ignored, not_numbers = Counter[str](), Counter[str]()
    named: list[np.ndarray] = []
    used = np.zeros(fingerprint.codebook_size, bool)
    shards = rows_out = rows_hr = truncated = 0
    for one in statistics:
        shards, rows_out, rows_hr = shards + 1, rows_out + one.rows_out, rows_hr + one.rows_hr
        truncated += one.truncated_captions
        reasons.update(one.rejects)
        all_ignored.update(one.ignored)
        named.append(np.frombuffer(b64decode(one.files_named), HASH))
        not_numbers.update(one.not_numbers)
        bits = np.unpackbits(np.frombuffer(b64decode(one.codes_in_use), np.uint8), count=len(used))
        used |= bits.astype(bool)
    of_rows = np.unique(np.concatenate([np.zeros(0, HASH), *named]))
    for reason, names in ignored.items():
        all_ignored[reason] += int((~np.isin(name_hashes(names), of_rows)).sum())
    rejected = sum(reasons.values())
    manifest = Manifest(
        corpus=corpus,
        fingerprint=asdict(fingerprint),
        shards=shards,
        failed_shards=dict(sorted(failed.items())),
        rows_in=rows_out + rejected,
        rows_out=rows_out,
        rows_hr=rows_hr,
        rows_rejected=rejected,
        rejects_by_reason=dict(sorted(reasons.items())),
        truncated_captions=truncated,
        codes_in_use=int(used.sum()),
        ignored=dict(sorted((+all_ignored).items())),
        not_numbers=dict(sorted(not_numbers.items())),
    )
    write_json(output, MANIFEST_FILE, stored_values(manifest), indent=2)
    return manifest


def name_hashes(names: Iterable[str]) -> np.ndarray:
    """The first 8 bytes of each name's blake2b, ascending: `HASH` [n]. A manifest holds those of a whole corpus."""
    digests = [hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names]
    return np.sort(np.frombuffer(b"".join(digests), HASH))


def stored_values(counts: ShardStatistics | Manifest) -> dict[str, Any]:
    """The values for a file. Optional ones are left out if they are empty."""
    return {name: value for name, value in asdict(counts).items() if name not in OPTIONAL or value != OPTIONAL[name]}


def check_settings(
    output: Storage, corpus: dict[str, Any], fingerprint: Fingerprint, folder: Path | None = None
) -> None:
    """Checks the corpus (`Corpus.description`) and the fingerprint of a folder of tokens, if it was begun before.

    A corpus in `folder` may have moved with it.

    Raises:
        InputError: the folder was begun with another corpus or fingerprint.
    """
    if not output.exists(SETTINGS_FILE):
        return
    with output.local(SETTINGS_FILE) as path:
        begun = json.loads(path.read_text("utf-8"))
    if is_same_place(begun["corpus"]["url"], corpus["url"], folder):
        begun["corpus"]["url"] = corpus["url"]
    if other := _differences(begun["corpus"], corpus):
        raise InputError(
            f"{str(output)!r} holds tokens of another corpus: {'; '.join(other)}; choose another --output or "
            f"--root (where the corpus has only moved, write its new url into {SETTINGS_FILE} there)"
        )
    if other := _differences(begun["fingerprint"], asdict(fingerprint)):
        raise InputError(
            f"{str(output)!r} holds tokens made with another {'; '.join(other)}; choose another --output or "
            "--root, or delete that folder"
        )


def record_settings(
    output: Storage, corpus: dict[str, Any], fingerprint: Fingerprint, folder: Path | None = None
) -> None:
    """Records the corpus and the fingerprint of a folder of tokens, unless they are there: see `check_settings`.

    A corpus in `folder` is recorded by its path there, so that both may move together.
    """
    if not output.exists(SETTINGS_FILE):
        begun = {"corpus": corpus | {"url": stored_place(corpus["url"], folder)}, "fingerprint": asdict(fingerprint)}
        write_json(output, SETTINGS_FILE, begun, indent=2)


def write_json(output: Storage, name: str, value: Any, indent: int | None = None) -> None:
    """Writes a JSON file atomically."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    output.write(name, lambda path: path.write_text(text, encoding="utf-8"))


def read_shard_statistics(output: Storage, shard: str) -> ShardStatistics:
    with output.local(statistics_name(shard)) as path:
        values = json.loads(path.read_text("utf-8"))
    values.pop("pictures_named", None)  # of earlier code: a count, which does not tell whether files are the same
    return ShardStatistics(**values)


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
