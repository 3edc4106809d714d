"""An image-text corpus in any format of `CORPUS_FORMATS`."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from tokenization.config.sources import CORPUS_FORMATS, CorpusSource
from tokenization.corpora.corpus_format import CorpusFormat
from tokenization.corpora.leftovers import leftovers
from tokenization.corpora.names import is_picture, suffix_of
from tokenization.corpora.samples import Ignored, Sample, readable
from tokenization.errors import InputError, OutageError
from tokenization.files.content import START_BYTES, what_it_is
from tokenization.files.listing import Listing
from tokenization.files.storage import Storage, open_storage

SHARDS_LOOKED_AT = 3
"""How many files of a detected format must not be its own before the corpus is refused."""
ENDINGS_SHOWN = 5
TABLE_SUFFIXES = ("csv", "tsv", "tab", "xlsx", "xls", "ods", "json", "jsonl", "ndjson", "feather", "arrow")
"""Endings of files that may hold the captions of pictures."""


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
            raise InputError(f"corpus layout {self.layout!r} is unknown; choose one of {', '.join(CORPUS_FORMATS)}")
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
                    f"corpus {self.source.url!r} has a shard whose name is not UTF-8, {readable(shard)!r}; rename it"
                )
        if not shards:
            raise InputError(f"corpus {self.source.url!r} has no {self._format.looked_for} in it; see --layout")
        return shards

    @cached_property
    def ignored(self) -> dict[str, list[str]]:
        """Names of the files beside the shards that are not read, by the reason."""
        return leftovers(self.storage, self._listing, self._format.files_read(self._names))

    def description(self) -> dict[str, Any]:
        """Plain values that decide the rows of the shards. `tokenization.json` records them."""
        return {"url": self.source.url, "layout": self.layout, **self._format.settings()}

    def size(self, shard: str) -> int:
        """The size of a shard's file in bytes; 0 of one that has no file of its own."""
        return self._format.size(shard)

    def read(self, shard: str) -> Iterator[Sample]:
        """Yields the samples of one shard, in its order.

        Raises:
            InputError: the shard cannot be read to its end.
        """
        return (found for found in self.read_all(shard) if isinstance(found, Sample))

    def read_all(self, shard: str) -> Iterator[Sample | Ignored]:
        """Yields the samples of one shard, in its order, and what is ignored in it.

        Raises:
            InputError: the shard cannot be read to its end.
        """
        try:
            yield from self._format.read(shard)
        except (InputError, OutageError) as error:
            raise type(error)(f"shard {shard!r} of {self.source.url!r}: {error}") from error

    @cached_property
    def _listing(self) -> Listing:
        return self.storage.listing()

    @property
    def _names(self) -> list[str]:
        names = self._listing.names
        if not names:
            is_file = "://" not in self.source.url and Path(self.source.url).is_file()
            what = "is a file" if is_file else "does not exist or is empty"
            raise InputError(f"corpus {self.source.url!r} {what}; give the folder that holds the shards or pictures")
        return names

    def _detected(self) -> str:
        own = {name: format_class(name).own_files(self._names) for name in CORPUS_FORMATS}
        found = [name for name in own if own[name] and not format_class(name).is_last_resort]
        last = [name for name in own if own[name] and format_class(name).is_last_resort]
        filled = {name: list(islice(filter(self.storage.size, own[name]), SHARDS_LOOKED_AT)) for name in found}
        reasons = {name: self._reason(name, filled[name]) for name in found}
        if len(found) > 1 or last:  # files of another use may have an ending of shards, and empty ones tell nothing
            whole = [name for name in found if filled[name] and not reasons[name]]
            found = whole or last or found
        if len(found) > 1:
            raise InputError(f"corpus {self.source.url!r} has files of {' and '.join(found)}; choose with --layout")
        if not found:
            *first, after = (format_class(name).looked_for for name in CORPUS_FORMATS)
            raise InputError(f"corpus {self.source.url!r} has no {', no '.join(first)} and no {after}{self._endings()}")
        if reason := reasons.get(found[0]):
            raise InputError(f"corpus {self.source.url!r}: {reason}")
        return found[0]

    def _reason(self, layout: str, names: list[str]) -> str:
        """The reason why the first files of a format hold no samples; empty if one of them may."""
        reason = ""
        for name in names:
            if not (of_this := format_class(layout).why_no_samples(self.storage, name)):
                return ""
            reason = reason or of_this
        return reason

    def _endings(self) -> str:
        """The endings of the folder's files, for the message that it holds no corpus."""
        counts = Counter(suffix_of(name) if "." in name else "" for name in self._names)
        if pictures := sum(map(is_picture, self._names)):
            tables = [name for name in self._names if suffix_of(name) in TABLE_SUFFIXES]
            table = (
                f", and {tables[0]!r} is not read; write it as metadata.csv with a column file_name" if tables else ""
            )
            return f"; its {pictures} pictures have no captions beside them{table}"
        shown = [f"{count} {f'.{suffix}' if suffix else 'without ending'}" for suffix, count in counts.most_common()]
        first = self._names[0]
        start = self.storage.read(first, 0, min(START_BYTES, self.storage.size(first)))
        return f"; its files are {', '.join(shown[:ENDINGS_SHOWN])}; {readable(first)!r}: {what_it_is(start)}"

    def __getstate__(self) -> dict[str, Any]:
        return {"source": replace(self.source, layout=self.layout)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]


def format_class(name: str) -> type[CorpusFormat]:
    """The class of a format of `CORPUS_FORMATS`."""
    found: type[CorpusFormat] = resolve_name(CORPUS_FORMATS[name])
    return found
