"""The text tokenizer that the tests of tokenization share."""

import pytest
from transformers import PreTrainedTokenizerFast

from tokenization.config.sources import PACKAGED
from tokenization.text_tokenizer import load_text_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return load_text_tokenizer(PACKAGED, tmp_path_factory.mktemp("text"))
