"""How large the blocks are in which readers pass on what they decoded."""

from types import SimpleNamespace
from typing import Any

import pytest

from tokenization.job.one_pass import block_bytes_of

GB, MB = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    ("shards", "shard_bytes", "store_bytes", "expected"),
    [
        (1, 24 * MB, 8 * GB, MB),  # a small corpus: its first pictures are encoded while others are decoded
        (1, 0, 8 * GB, MB),  # a folder of pictures, whose shards have no size of their own
        (1000, 512 * MB, 8 * GB, 125 * MB),
        (100_000, 512 * MB, 64 * GB, 256 * MB),
        (100_000, 512 * MB, GB, 32 * MB),  # 32 of them fit into the store
    ],
)
def test_blocks_grow_with_the_corpus_up_to_what_the_store_holds(
    shards: int, shard_bytes: int, store_bytes: int, expected: int
) -> None:
    corpus: Any = SimpleNamespace(size=lambda shard: shard_bytes)
    assert block_bytes_of(corpus, [f"{number}" for number in range(shards)], store_bytes) == expected
