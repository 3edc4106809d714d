"""Makes small corpora."""

from pathlib import Path
from typing import Any

from tokenization.config.sources import CorpusSource
from tokenization.corpora.corpus import Corpus


def corpus_in(folder: Path, **how: Any) -> Corpus:
    return Corpus(CorpusSource(str(folder), **how))
