"""Small corpora and a small text tokenizer."""

import pytest

from tokenization.config.sources import PACKAGED, CorpusSource
from tokenization.corpora.corpus import Corpus
from tokenization.text_tokenizer import load_text_tokenizer


def corpus_in(folder, **how) -> Corpus:
    return Corpus(CorpusSource(str(folder), **how))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return load_text_tokenizer(PACKAGED, tmp_path_factory.mktemp("text"))
