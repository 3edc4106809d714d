"""Small corpora and a small text tokenizer."""

import pytest

from tokenization.corpora.corpus import Corpus, CorpusSource
from tokenization.text_tokenizer import PACKAGED, load_text_tokenizer


def corpus_in(folder, **how) -> Corpus:
    return Corpus(CorpusSource(str(folder), **how))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return load_text_tokenizer(PACKAGED, tmp_path_factory.mktemp("text"))
