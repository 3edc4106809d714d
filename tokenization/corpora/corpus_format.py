"""The interface that every corpus format implements. `tokenization.config.sources.CORPUS_FORMATS` lists them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from tokenization.config.sources import CorpusSource
from tokenization.corpora.samples import Sample
from tokenization.files.storage import Storage


class CorpusFormat(ABC):
    """Lists the shards of a corpus and reads their samples.

    Attributes:
        suffix: ending of the files by which the format is detected.
        looked_for: name of these files in messages.
    """

    suffix: ClassVar[str] = ""
    looked_for: ClassVar[str]

    def __init__(self, storage: Storage, source: CorpusSource) -> None:
        self.storage, self.source = storage, source

    @classmethod
    def own_files(cls, names: list[str]) -> list[str]:
        """The files by which the format is detected, in the order of `names`."""
        return [name for name in names if name.endswith(cls.suffix)]

    def shards(self, names: list[str]) -> list[str]:
        """The corpus's shards: here, one for each of `own_files`. `names` are all files, sorted."""
        return self.own_files(names)

    def settings(self) -> dict[str, Any]:
        """Plain values that decide the rows of the shards. A changed value makes a different corpus."""
        return {}

    @abstractmethod
    def read(self, shard: str) -> Iterator[Sample]:
        """Yields the samples of one shard, in its order. A sample that cannot be used has a `problem`.

        Raises:
            InputError: the shard cannot be read to its end.
        """
