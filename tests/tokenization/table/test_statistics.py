"""Statistics of a token dataset are those of its rows."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.small_models import CODEBOOK
from tests.support.tokens import write_tokens
from tokenization.files.storage import open_storage
from tokenization.table.statistics import add_up, perplexity, statistics_of_shard


def test_perplexity_counts_equally_frequent_codes() -> None:
    assert perplexity(np.array([5, 5, 0, 5, 5])) == pytest.approx(4)
    assert perplexity(np.array([7, 0])) == pytest.approx(1)
    assert perplexity(np.zeros(3, int)) == 1


def test_shards_add_up(tmp_path: Path) -> None:
    write_tokens(tmp_path)
    storage = open_storage(tmp_path)
    names = [name for name in storage.names() if name.endswith(".parquet")]
    figures = add_up([statistics_of_shard(storage, name, CODEBOOK) for name in names]).summary()
    assert (figures["shards"], figures["rows"], figures["rows_hr"]) == (3, 30, 30)
    assert figures["captions"]["en"] == {
        "captions": 30,
        "mean_ids": 2.0,
        "median_ids": 2.0,
        "p95_ids": 2.0,
        "max_ids": 2,
        "truncated": 0,
    }
    assert figures["captions"]["zh"]["mean_ids"] == 1
    assert figures["codes_in_use"] <= CODEBOOK and 0 < figures["codes_in_use_hr"] <= CODEBOOK
    assert figures["keys_in_several_shards"] == 20, "every shard of the three has the same ten keys"
    assert figures["rows_with_the_codes_of_another"] == 0
    twice = add_up([statistics_of_shard(storage, names[0], CODEBOOK) for _ in range(2)]).summary()
    assert twice["rows_with_the_codes_of_another"] == 10
