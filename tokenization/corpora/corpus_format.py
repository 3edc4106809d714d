"""The interface that every corpus format implements. `tokenization.config.sources.CORPUS_FORMATS` lists them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from tokenization.config.sources import CorpusSource
from tokenization.corpora.samples import Ignored, Sample
from tokenization.files.storage import Storage


class CorpusFormat(ABC):
    """Lists the shards of a corpus and reads their samples.

    Attributes:
        suffix: ending of the files by which the format is detected, in lower case; theirs may be in any.
        looked_for: name of these files in messages.
        is_last_resort: detected only where no other format has files.
    """

    suffix: ClassVar[str] = ""
    looked_for: ClassVar[str]
    is_last_resort: ClassVar[bool] = False

    def __init__(self, storage: Storage, source: CorpusSource) -> None:
        self.storage, self.source = storage, source

    @classmethod
    def own_files(cls, names: list[str]) -> list[str]:
        """The files by which the format is detected, in the order of `names`."""
        return [name for name in names if name.lower().endswith(cls.suffix)]

    @classmethod
    def why_no_samples(cls, storage: Storage, name: str) -> str:
        """The reason why one of `own_files` holds no samples in spite of its ending, as far as a short look tells; else
        empty. Files without a byte are not asked: they tell nothing."""
        return ""

    def shards(self, names: list[str]) -> list[str]:
        """The corpus's shards: here, one for each of `own_files`. `names` are all files, sorted."""
        return self.own_files(names)

    def files_read(self, names: list[str]) -> set[str]:
        """Those of `names` that samples are made of. All others are counted as ignored."""
        return set(self.own_files(names))

    def size(self, shard: str) -> int:
        """The size of a shard's file in bytes; 0 of one that has no file of its own."""
        return self.storage.size(shard)

    def settings(self) -> dict[str, Any]:
        """Plain values that decide the rows of the shards. A changed value makes a different corpus."""
        return {}

    @abstractmethod
    def read(self, shard: str) -> Iterator[Sample | Ignored]:
        """Yields the samples of one shard, in its order, and what it has beside them. A sample that cannot be used has
        a `problem`.

        Raises:
            InputError: the shard cannot be read to its end.
        """
