"""Tokenizes a corpus in this process, without Ray and without an encoder."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tests.support.corpora import corpus_in
from tests.support.tokens import FINGERPRINT
from tokenization.config.pictures import Limits
from tokenization.config.tokenization import TokenizationConfig
from tokenization.errors import InputError
from tokenization.files.storage import open_storage
from tokenization.job.rows import read_chunks
from tokenization.job.writer import Writer
from tokenization.table.manifest import Manifest, ShardStatistics, write_manifest

LIMITS = Limits(max_pixels=4_000_000)
CONFIG = TokenizationConfig(32, encode_batch_size=16, caption_columns={"caption": "en"}, limits=LIMITS)


def tokenize_plainly(
    corpus_folder: Path,
    output: Path,
    tokenizer: PreTrainedTokenizerFast,
    config: TokenizationConfig = CONFIG,
    **how: Any,
) -> Manifest:
    """Does everything that the job does with a corpus, except encoding its pictures."""
    corpus, writer = corpus_in(corpus_folder, **how), Writer(str(output), FINGERPRINT)
    books: list[ShardStatistics] = []
    failed: dict[str, str] = {}
    for shard in corpus.shards:
        try:
            chunks = list(read_chunks(corpus, shard, config, tokenizer))
        except InputError as error:
            failed[shard] = str(error)
            continue
        for chunk in chunks:
            for row in chunk.rows:
                row["codes"] = np.zeros(FINGERPRINT.num_codes, np.uint16)
            writer.add(shard, chunk.index, chunk.rows, chunk.rejects, chunk.notes)
        ended = writer.finish(shard, len(chunks))
        assert ended is not None
        books.append(ended)
    return write_manifest(str(corpus_folder), books, failed, FINGERPRINT, open_storage(output), corpus.ignored)
