"""Tokenizes a corpus in this process, without Ray and without an encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.tokens import FINGERPRINT
from tokenization.config.pictures import Limits
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.errors import InputError
from tokenization.files.storage import open_storage
from tokenization.job.chunk import Chunk, EncodedChunk, SentChunk, sent
from tokenization.job.encoding import Codes, EncodingStage
from tokenization.job.rows import read_chunks
from tokenization.job.writer import Writer
from tokenization.table.manifest import Manifest, write_manifest
from tokenization.table.shard_statistics import ShardStatistics
from tokenization.table.sums import Sums

LIMITS = Limits(max_pixels=4_000_000)
CONFIG = TokenizationConfig(32, encode_batch_size=16, caption_columns={"caption": "en"}, limits=LIMITS)


class ZeroEncoder(EncodingStage):
    """Makes code 0 everywhere."""

    def codes_of(self, chunk: SentChunk) -> Codes:
        return np.zeros((chunk.num_rows, FINGERPRINT.num_codes), np.uint16), None


def encoded(chunk: Chunk) -> EncodedChunk:
    """The chunk as it comes to a writer, with code 0 everywhere."""
    return ZeroEncoder(CONFIG, "", Workers(), []).encoded(pa.py_buffer(sent(chunk)))


def tokenize_plainly(
    corpus_folder: Path,
    output: Path,
    tokenizer: PreTrainedTokenizerFast,
    config: TokenizationConfig = CONFIG,
    **how: Any,
) -> Manifest:
    """Does everything that the job does with a corpus, except encoding its pictures."""
    corpus, writer = corpus_in(corpus_folder, **how), Writer(str(output), FINGERPRINT)
    sums = Sums(FINGERPRINT.codebook_size)
    failed: dict[str, str] = {}
    for shard in corpus.shards:
        try:
            chunks = list(read_chunks(corpus, shard, config, tokenizer))
        except InputError as error:
            failed[shard] = str(error)
            continue
        writer.add([encoded(chunk) for chunk in chunks])
        ((_, ended),) = writer.news().ended
        assert isinstance(ended, ShardStatistics)
        sums.add(shard, ended)
    return write_manifest(str(corpus_folder), sums, failed, FINGERPRINT, open_storage(output), corpus.ignored)
