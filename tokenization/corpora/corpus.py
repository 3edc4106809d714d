"""An image-text corpus in any format of `CORPUS_FORMATS`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

from tokenization.config.sources import CORPUS_FORMATS, CorpusSource
from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.samples import Sample, readable
from tokenization.errors import InputError, OutageError
from tokenization.files.storage import Storage, open_storage


class Corpus:
    """A corpus that can be listed and read.

    Raises:
        InputError: it does not exist, is empty, or has files of several formats and none was named.
    """

    def __init__(self, source: CorpusSource) -> None:
        self.source = source
        self.storage: Storage = open_storage(source.url)
        self.layout = source.layout or self._detected()
        if self.layout not in CORPUS_FORMATS:
            raise InputError(f"corpus layout {self.layout!r} is none of {', '.join(CORPUS_FORMATS)}")
        self._format = format_class(self.layout)(self.storage, source)

    @cached_property
    def shards(self) -> list[str]:
        """Names of the shards, sorted: relative paths, or numbers if the format makes virtual shards.

        Raises:
            InputError: there are no shards.
        """
        shards = self._format.shards(self._names)
        for shard in shards:
            if readable(shard) != shard:
                raise InputError(
                    f"corpus {self.source.url!r} has a shard whose name is no UTF-8, {readable(shard)!r}; rename it"
                )
        if not shards:
            raise InputError(f"corpus {self.source.url!r} has no {self._format.looked_for} in it; see --layout")
        return shards

    def description(self) -> dict[str, Any]:
        """Plain values that decide the rows of the shards. `tokenization.json` records them."""
        return {"url": self.source.url, "layout": self.layout, **self._format.settings()}

    def read(self, shard: str) -> Iterator[Sample]:
        """Yields the samples of one shard, in its order.

        Raises:
            InputError: the shard cannot be read to its end.
        """
        try:
            yield from self._format.read(shard)
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

    def _detected(self) -> str:
        found = [name for name in CORPUS_FORMATS if format_class(name).own_files(self._names)]
        if len(found) > 1:
            raise InputError(f"corpus {self.source.url!r} has files of {' and '.join(found)}; choose with --layout")
        if not found:
            *first, last = (format_class(name).looked_for for name in CORPUS_FORMATS)
            raise InputError(f"corpus {self.source.url!r} has no {', no '.join(first)} and no {last}")
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"source": replace(self.source, layout=self.layout)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]


def format_class(name: str) -> type[CorpusFormat]:
    """The class of a format of `CORPUS_FORMATS`."""
    found: type[CorpusFormat] = resolve_name(CORPUS_FORMATS[name])
    return found
