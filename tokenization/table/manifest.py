"""The manifest, with the sums of all shards, and the record of a token folder's corpus and fingerprint."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokenization.errors import InputError
from tokenization.files.places import is_same_place, stored_place
from tokenization.files.storage import Storage
from tokenization.table.shard_statistics import name_hashes, stored_values, write_json
from tokenization.table.sums import Sums
from tokenization.table.token_table import MANIFEST_FILE, Fingerprint

SETTINGS_FILE = "tokenization.json"
"""File with the corpus and the fingerprint of all tokens in the folder."""


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


def write_manifest(
    corpus: str,
    sums: Sums,
    failed: dict[str, str],
    fingerprint: Fingerprint,
    output: Storage,
    ignored: Mapping[str, Sequence[str]],
) -> Manifest:
    """Writes the manifest of the shards whose statistics have been added up. `ignored` has the names of the files
    beside the shards, by the reason; those that rows name are taken off."""
    all_ignored, of_rows = Counter(sums.ignored), sums.files_named()
    for reason, names in ignored.items():
        all_ignored[reason] += int((~np.isin(name_hashes(names), of_rows)).sum())
    rejected = sum(sums.rejects.values())
    manifest = Manifest(
        corpus=corpus,
        fingerprint=asdict(fingerprint),
        shards=sums.num_shards,
        failed_shards=dict(sorted(failed.items())),
        rows_in=sums.rows_out + rejected,
        rows_out=sums.rows_out,
        rows_hr=sums.rows_hr,
        rows_rejected=rejected,
        rejects_by_reason=dict(sorted(sums.rejects.items())),
        truncated_captions=sums.truncated_captions,
        codes_in_use=sums.codes_in_use(),
        ignored=dict(sorted((+all_ignored).items())),
        not_numbers=dict(sorted(sums.not_numbers.items())),
    )
    write_json(output, MANIFEST_FILE, stored_values(manifest), indent=2)
    return manifest


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
