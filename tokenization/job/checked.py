"""What a job has found out about a VQ-GAN and a vocabulary, kept beside the run's vocabulary.

A later job with the same files and settings takes it from there, and need not wait for torch, the weights and the
vocabulary before it starts its actors.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenization.config.vqgan import PIPELINE_PARTS, split_choice
from tokenization.files.atomic_writing import write_atomically
from tokenization.files.hashing import file_sha256
from tokenization.text_tokenizer import vocabulary_file

FILE = "checked.json"
VOCABULARY_ENDINGS = (".json", ".txt", ".tiktoken", ".jinja")
"""Of the files in a tokenizer's folder that may decide its ids."""


def known(cache: Path, decided_by: list[Any]) -> dict[str, Any] | None:
    """What was kept for these plain values; None for nothing.

    Args:
        cache: folder in the run's.
        decided_by: all that decides it.
    """
    found: dict[str, Any] | None = _all(cache / FILE).get(_key(decided_by))
    return found


def keep(cache: Path, decided_by: list[Any], found: dict[str, Any]) -> None:
    """Keeps what was found out, for `known`."""
    everything = _all(cache / FILE)
    if everything.get(_key(decided_by)) != found:
        text = json.dumps(everything | {_key(decided_by): found}, indent=2)
        write_atomically(cache / FILE, lambda partial: partial.write_text(text))


def vqgan_files_sha256(location: Path | str) -> str:
    """A hash of all files of a VQ-GAN, and of which of its weights are taken."""
    path, choice = split_choice(Path(location))
    # A pipeline's folder has large files of other models.
    path = next((path / part for part in PIPELINE_PARTS if (path / part).is_dir()), path)
    files = sorted(path.rglob("*")) if path.is_dir() else [path, *sorted(path.parent.glob("*.json"))]
    return _sha256(choice, [file for file in files if file.is_file()])


def vocabulary_files_sha256(source: str) -> str:
    """A hash of the files that decide a vocabulary's ids.

    Raises:
        InputError: see `vocabulary_file`.
    """
    file = vocabulary_file(source)
    beside = [other for other in sorted(file.parent.iterdir()) if other.suffix in VOCABULARY_ENDINGS]
    return _sha256("", [file] if file.suffix != ".json" else [file, *beside])


def _sha256(name: str, files: list[Path]) -> str:
    return hashlib.sha256(json.dumps([name, *((file.name, file_sha256(file)) for file in files)]).encode()).hexdigest()


def _key(decided_by: list[Any]) -> str:
    return hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()


def _all(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):  # there is none, or a crash has damaged it: everything is found out again
        return {}
    return found if isinstance(found, dict) else {}
