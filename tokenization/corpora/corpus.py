"""An image-text corpus in one of the layouts that are read: what its shards are, and their samples."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenization.config.sources import CorpusSource
from tokenization.corpora.documents import read_documents
from tokenization.corpora.folder import METADATA_FILES, PictureFolder
from tokenization.corpora.parquet import read_parquet
from tokenization.corpora.samples import Sample, readable
from tokenization.corpora.tar import read_tar
from tokenization.errors import InputError, OutageError
from tokenization.files.storage import Storage, open_storage

SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet", "documents": ".jsonl"}
LAYOUTS = (*SUFFIXES, "imagefolder")


class Corpus:
    """A corpus that can be listed and read.

    Raises:
        InputError: it does not exist, is empty, or has files of several layouts and none was named.
    """

    def __init__(self, source: CorpusSource) -> None:
        self.source = source
        self.storage: Storage = open_storage(source.url)
        self.layout = source.layout or self._layout()
        if self.layout not in LAYOUTS:
            raise InputError(f"corpus layout {self.layout!r} is none of {', '.join(LAYOUTS)}")
        self._folder = PictureFolder(self.storage, source.folder_shard_rows)

    @cached_property
    def shards(self) -> list[str]:
        """Names of the shards, sorted: relative paths, or numbers where they are virtual.

        Raises:
            InputError: there is none.
        """
        shards = self._folder.shards() if self.layout == "imagefolder" else _with_suffix(self._names, self.layout)
        for shard in shards:
            if readable(shard) != shard:
                raise InputError(
                    f"corpus {self.source.url!r} has a shard whose name is no UTF-8, {readable(shard)!r}; rename it"
                )
        if not shards:
            what = f"{SUFFIXES[self.layout]} shard" if self.layout in SUFFIXES else "picture"
            raise InputError(f"corpus {self.source.url!r} has no {what} in it; see --layout")
        return shards

    def description(self) -> dict[str, Any]:
        """What decides which rows the shards have, as plain values."""
        own: dict[str, Any] = {"url": self.source.url, "layout": self.layout}
        if self.layout == "parquet":
            own["image_column"] = self.source.image_column
        if self.layout == "imagefolder":
            own |= {"folder_shard_rows": self.source.folder_shard_rows, "listing": self._folder.sha256()}
        return own

    def read(self, shard: str) -> Iterator[Sample]:
        """The samples of one shard, in its order.

        Raises:
            InputError: the shard cannot be read to its end.
        """
        try:
            if self.layout == "imagefolder":
                yield from self._folder.read(shard, self.source.max_bytes)
                return
            if self.layout == "documents":
                yield from read_documents(self.storage, shard, self.source.max_bytes)
                return
            with self.storage.local(shard) as path:
                if self.layout == "webdataset":
                    yield from read_tar(path, self.source.max_bytes)
                else:
                    yield from read_parquet(path, self.source.image_column)
        except (InputError, OutageError) as error:
            raise type(error)(f"shard {shard!r} of {self.source.url!r}: {error}") from error

    @cached_property
    def _names(self) -> list[str]:
        names = self.storage.names()
        if not names:
            raise InputError(
                f"corpus {self.source.url!r} does not exist or is empty; give the folder that holds the shards"
            )
        return names

    def _layout(self) -> str:
        found = [layout for layout in SUFFIXES if _with_suffix(self._names, layout)]
        if any(Path(name).name in METADATA_FILES for name in self._names):
            found.append("imagefolder")
        if len(found) > 1:
            raise InputError(f"corpus {self.source.url!r} has files of {' and '.join(found)}; choose with --layout")
        if not found:
            raise InputError(
                f"corpus {self.source.url!r} has no .tar shard, no .parquet, no .jsonl of documents and no "
                f"{' or '.join(METADATA_FILES)}"
            )
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"source": replace(self.source, layout=self.layout)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]


def _with_suffix(names: list[str], layout: str) -> list[str]:
    return [name for name in names if name.endswith(SUFFIXES[layout]) and Path(name).name not in METADATA_FILES]
