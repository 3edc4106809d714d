"""Reading an image-text corpus in WebDataset tar shards, as img2dataset writes it."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenization.errors import InputError

PICTURE_SUFFIXES = frozenset({"png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"})


@dataclass(frozen=True)
class Sample:
    """One sample as it lies in the corpus: `picture` and `meta` are None where the shard has none for this key."""

    key: str
    picture: bytes | None
    meta: bytes | None

    def metadata(self) -> dict[str, Any]:
        """The parsed `.json`.

        Raises:
            ValueError: there is none, or it is no JSON object.
        """
        if self.meta is None:
            raise ValueError("the sample has no .json")
        value = json.loads(self.meta)
        if not isinstance(value, dict):
            raise ValueError(f"the sample's .json is a {type(value).__name__}, not an object")
        return value


def list_shards(corpus: Path) -> list[str]:
    """Paths of the tar shards under `corpus`, relative to it, sorted.

    Raises:
        InputError: the folder does not exist or has no tar in it.
    """
    if not corpus.exists():
        raise InputError(f"corpus {str(corpus)!r} does not exist; give the folder that holds the tar shards")
    shards = sorted(path.relative_to(corpus).as_posix() for path in corpus.rglob("*.tar"))
    if not shards:
        raise InputError(f"corpus {str(corpus)!r} has no .tar shard in it; write it as img2dataset's webdataset does")
    return shards


def read_shard(path: Path) -> Iterator[Sample]:
    """The samples of one shard, in its order. Members of a sample lie together, as WebDataset prescribes.

    Raises:
        InputError: the file is missing, no tar, or cut short.
    """
    try:
        with tarfile.open(path) as tar:
            key: str | None = None
            parts: dict[str, bytes] = {}
            for member in tar:
                if not member.isfile():
                    continue
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                stem, _, suffix = name.partition(".")
                stem = f"{folder}/{stem}" if folder else stem
                if key is not None and stem != key:
                    yield _sample(key, parts)
                    parts = {}
                key = stem
                content = tar.extractfile(member)
                assert content is not None
                parts[suffix.lower()] = content.read()
            # tarfile takes a damaged or missing header for the end; a whole archive ends with a block of zeros.
            with path.open("rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0") or file.tell() < tar.offset + tarfile.BLOCKSIZE:
                    raise tarfile.ReadError(f"it breaks off at byte {tar.offset}")
            if key is not None:
                yield _sample(key, parts)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"shard {str(path)!r} is no readable tar ({error}); fetch or write it again") from error


def _sample(key: str, parts: dict[str, bytes]) -> Sample:
    picture = next((content for suffix, content in parts.items() if suffix in PICTURE_SUFFIXES), None)
    return Sample(key, picture, parts.get("json"))
